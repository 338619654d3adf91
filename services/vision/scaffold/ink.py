"""Ink and plate of every label of a layout, decided together from the undrawn picture.

Each label box is read at a fixed lattice of sample points, so the cost depends on the number of
labels and not on the size of the image.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.vision.scaffold.colour import (
    BLACK,
    MINIMUM_CONTRAST,
    WHITE,
    Pixels,
    Plate,
    Rgb,
    contrast,
    contrast_at_quantile,
    luminance_of,
    luminance_under,
    parse_colour,
    relative_luminance,
)
from services.vision.scaffold.options import PLATE_ALPHA, OverlayOptions
from services.vision.scaffold.placement import Layout

SAMPLE_ROWS, SAMPLE_COLS = 8, 16
DOT_SAMPLES = 3
BUSY_DEVIATION = 0.08
"""Standard deviation of relative luminance above which strokes drown in texture."""

Indices = NDArray[np.intp]


class Ink(NamedTuple):
    """How one label is painted. `plate` is None or (colour, alpha of 255); `contrast` is what
    four fifths of the label's area reach, plate included."""

    colour: Rgb
    plate: Plate | None
    contrast: float


def _lattice(start: Indices, stop: Indices, steps: int, limit: int) -> Indices:
    """`steps` pixel positions across [start, stop) for every label, kept on the canvas."""
    span = (stop - start)[:, None]
    middle = (np.arange(steps) * 2 + 1)[None, :]
    return np.clip(start[:, None] + span * middle // (2 * steps), 0, limit - 1)


def sample_points(layout: Layout, size: tuple[int, int]) -> Indices:
    """Pixels counted row by row, (labels, samples): the lattice of the label's text first, the dot's
    behind it."""
    boxes = np.array(
        [(p.box.left, p.box.top, p.box.right, p.box.bottom) for p in layout.labels], dtype=np.intp
    )
    boxes += np.array((1, 1, -1, -1)) * layout.padding
    centres = np.array(layout.centres, dtype=np.intp)
    reach = layout.radius
    lattices = []
    for left, top, right, bottom, nx, ny in (
        (boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3], SAMPLE_COLS, SAMPLE_ROWS),
        (
            centres[:, 0] - reach,
            centres[:, 1] - reach,
            centres[:, 0] + reach + 1,
            centres[:, 1] + reach + 1,
            DOT_SAMPLES,
            DOT_SAMPLES,
        ),
    ):
        xs, ys = _lattice(left, right, nx, size[0]), _lattice(top, bottom, ny, size[1])
        lattices.append((ys[:, :, None] * size[0] + xs[:, None, :]).reshape(len(xs), -1))
    return np.concatenate(lattices, axis=1)


def _samples(pixels: Pixels, points: Indices) -> Pixels:
    return pixels.reshape(-1, 3).take(points, axis=0)


def choose_inks(pixels: Pixels, points: Indices, options: OverlayOptions) -> list[Ink]:
    """Ink of every label from contiguous pixels (H, W, 3) and `sample_points`.

    Black or white, whichever has the higher contrast to the mean relative luminance of label and
    dot box; a plate of the opposite colour where the contrast stays below 4.5 or the ground is
    busy. A fixed `color` keeps its ink and only gets the plate.
    """
    samples = _samples(pixels, points)
    luminance = relative_luminance(samples)
    if options.color == "auto":
        white = (_mean(luminance) + 0.05) ** 2 < 1.05 * 0.05  # black would have less contrast
        inks = [WHITE if is_white else BLACK for is_white in white.tolist()]
        ink_luminance = white.astype(np.float32)
    else:
        inks = [parse_colour(options.color)] * len(luminance)
        ink_luminance = np.full(len(luminance), luminance_of(inks[0]), dtype=np.float32)
    behind = SAMPLE_ROWS * SAMPLE_COLS
    reached = contrast_at_quantile(ink_luminance, luminance[:, :behind])
    plates = _plates(inks, reached, luminance[:, :behind], options)
    if any(plates):
        reached = contrast_at_quantile(ink_luminance, luminance_under(samples[:, :behind], plates))
    return [Ink(ink, plate, value) for ink, plate, value in zip(inks, plates, reached.tolist(), strict=True)]


def label_contrasts(pixels: Pixels, points: Indices, inks: list[Rgb]) -> list[float]:
    """Contrast of given inks to the undrawn picture, without plates."""
    behind = SAMPLE_ROWS * SAMPLE_COLS
    luminance = relative_luminance(_samples(pixels, points[:, :behind]))
    levels = np.array([luminance_of(ink) for ink in inks], dtype=np.float32)
    return [float(value) for value in contrast_at_quantile(levels, luminance)]


def _plates(
    inks: list[Rgb],
    plain: NDArray[np.float32],
    luminance: NDArray[np.float32],
    options: OverlayOptions,
) -> list[Plate | None]:
    if options.plate == "off":
        return [None] * len(inks)
    if options.plate == "auto":
        variance = _mean(luminance * luminance) - _mean(luminance) ** 2
        needed = (plain < MINIMUM_CONTRAST) | (variance > BUSY_DEVIATION**2)
    else:
        needed = np.ones(len(plain), dtype=bool)
    alpha = options.plate if isinstance(options.plate, int) else PLATE_ALPHA
    return [
        (opposite(ink), alpha) if plated else None for ink, plated in zip(inks, needed.tolist(), strict=True)
    ]


def _mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of every row; NumPy's own `mean` takes longer to begin than to add up this little."""
    return np.asarray(np.add.reduce(values, axis=1) / np.float32(values.shape[1]))


@lru_cache(maxsize=256)
def opposite(ink: Rgb) -> Rgb:
    """Black or white, whichever stands out more from `ink`."""
    level = luminance_of(ink)
    return WHITE if contrast(level, 1.0) >= contrast(level, 0.0) else BLACK
