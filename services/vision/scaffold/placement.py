"""Where each label goes: font size, radius and a place beside every dot.

Depends on the size of the image and the options, never on its pixels, so one layout serves every
frame of a given size (stable label geometry) and is cached.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from services.vision.scaffold.fonts import text_size, text_width
from services.vision.scaffold.geometry import Box, Matrix, dot_centres
from services.vision.scaffold.labels import matrix_labels
from services.vision.scaffold.options import (
    MINIMUM_FONT_PX,
    ImageTooSmallError,
    OverlayOptions,
    Placement,
)

CELL_HEIGHT_SHARE = 0.45
CELL_WIDTH_SHARE = 0.8
FONT_DIVISOR = 40
PORTRAIT_ALLOWANCE = 1.4


@dataclass(frozen=True)
class PlacedLabel:
    """The box of a label (its plate), the labels it overlaps, whether it leaves the canvas."""

    box: Box
    overlaps: int
    out_of_canvas: bool


@dataclass(frozen=True, eq=False)
class Layout:
    """Everything about an overlay that does not depend on pixels; lists run row by row.

    Compared by identity: layouts are cached, and so is what follows from one.
    """

    matrix: Matrix
    font_px: int
    radius: int
    padding: int
    texts: tuple[str, ...]
    centres: tuple[tuple[int, int], ...]
    labels: tuple[PlacedLabel, ...]


def _minimum_font(size: tuple[int, int], options: OverlayOptions) -> int:
    """12 px as the model will see it: more where the model shrinks the image."""
    target = options.target_model_side
    shrink = 1.0 if target is None else min(1.0, target / max(size))
    return math.ceil(MINIMUM_FONT_PX / shrink)


def _longest(options: OverlayOptions, matrix: Matrix, px: int) -> int:
    labels = matrix_labels(options.label_style, matrix, options.image_index)
    return max(text_width(label, px) for label in labels)


def _fits(size: tuple[int, int], options: OverlayOptions, matrix: Matrix, px: int) -> bool:
    cell_width, cell_height = matrix.cell(size)
    if px > CELL_HEIGHT_SHARE * cell_height:
        return False
    width = _longest(options, matrix, px)
    reach = width + 2 * _padding(px) + _radius(px, options) + 1
    return width <= CELL_WIDTH_SHARE * cell_width and reach <= int(cell_width)


def _padding(px: int) -> int:
    return max(2, round(px / 6))


def _radius(px: int, options: OverlayOptions) -> int:
    return options.radius_px if options.radius_px is not None else max(2, round(px / 6))


def _largest_matrix(size: tuple[int, int], options: OverlayOptions, px: int) -> Matrix | None:
    """The largest matrix, no larger than the wanted one, whose labels fit at `px`."""
    rows = math.floor(CELL_HEIGHT_SHARE * size[1] / px) - 1
    rows = min(rows, options.matrix.rows)
    if rows < 1:
        return None
    for cols in range(options.matrix.cols, 0, -1):
        matrix = Matrix(rows, cols)
        if _fits(size, options, matrix, px):
            return matrix
    return None


def _refuse(size: tuple[int, int], options: OverlayOptions, px: int) -> ImageTooSmallError:
    cell_width, cell_height = options.matrix.cell(size)
    width = _longest(options, options.matrix, px)
    reach = width + 2 * _padding(px) + _radius(px, options) + 2
    scale = max(
        px / (CELL_HEIGHT_SHARE * cell_height),
        width / (CELL_WIDTH_SHARE * cell_width),
        reach / cell_width,
    )
    minimum_side = math.ceil(min(size) * scale)
    return ImageTooSmallError(size, options.matrix, _largest_matrix(size, options, px), minimum_side)


def choose_matrix_and_font(size: tuple[int, int], options: OverlayOptions) -> tuple[Matrix, int]:
    """Matrix and font size in pixels for an image of `size`.

    Font: `min(W, 1.4 H) / 40`, at least 12 px as the model sees it, at most 0.45 of a cell high,
    and small enough that the longest label takes at most 0.8 of a cell. Raises ImageTooSmallError
    where these disagree, unless `auto_matrix` lets the matrix shrink.
    """
    smallest = options.font_px or _minimum_font(size, options)
    matrix = options.matrix
    if not _fits(size, options, matrix, smallest):
        reduced = _largest_matrix(size, options, smallest) if options.auto_matrix else None
        if reduced is None:
            raise _refuse(size, options, smallest)
        matrix = reduced
    if options.font_px is not None:
        return matrix, options.font_px
    wanted = round(min(size[0], PORTRAIT_ALLOWANCE * size[1]) / FONT_DIVISOR)
    wanted = min(wanted, math.floor(CELL_HEIGHT_SHARE * matrix.cell(size)[1]))
    px = max(wanted, smallest)
    while px > smallest and not _fits(size, options, matrix, px):
        px -= 1
    return matrix, px


def _candidates(centre: tuple[int, int], label: tuple[int, int], radius: int, policy: Placement) -> list[Box]:
    """Right-below (the paper's place), right-above, left-below, left-above of a dot."""
    (x, y), (width, height) = centre, label
    right, left = x + radius + 1, x - radius - width
    below, above = y, y + 1 - height
    corners = [(right, below), (right, above), (left, below), (left, above)]
    if policy == "fixed":
        corners = corners[:1]
    return [Box(cx, cy, cx + width, cy + height) for cx, cy in corners]


def _count_overlaps(box: Box, placed: NDArray[np.int64]) -> int:
    """How many rows (left, top, right, bottom) of `placed` the box overlaps."""
    return int(
        np.count_nonzero(
            (placed[:, 0] < box.right)
            & (placed[:, 2] > box.left)
            & (placed[:, 1] < box.bottom)
            & (placed[:, 3] > box.top)
        )
    )


def _place(
    size: tuple[int, int],
    centres: Sequence[tuple[int, int]],
    label_sizes: Sequence[tuple[int, int]],
    radius: int,
    policy: Placement,
) -> list[PlacedLabel]:
    dots = np.array([(x - radius, y - radius, x + radius + 1, y + radius + 1) for x, y in centres])
    placed = np.zeros((len(centres), 4), dtype=np.int64)
    boxes: list[Box] = []
    for index, (centre, label) in enumerate(zip(centres, label_sizes, strict=True)):
        best: tuple[tuple[int, int, int], Box] | None = None
        for box in _candidates(centre, label, radius, policy):
            faults = (
                0 if box.inside(size) else 1,
                _count_overlaps(box, placed[:index]),
                _count_overlaps(box, dots),
            )
            if best is None or faults < best[0]:
                best = faults, box
            if faults == (0, 0, 0):
                break
        assert best is not None
        box = best[1]
        placed[index] = (box.left, box.top, box.right, box.bottom)
        boxes.append(box)
    return [PlacedLabel(box, _count_overlaps(box, placed) - 1, not box.inside(size)) for box in boxes]


def place_labels(
    size: tuple[int, int],
    centres: Sequence[tuple[int, int]],
    label_sizes: Sequence[tuple[int, int]],
    radius: int,
    policy: Placement = "auto",
) -> list[PlacedLabel]:
    """Place labels of the given (width, height) beside dots, deterministically.

    `fixed` keeps the paper's place. `auto` is greedy in drawing order: the first candidate inside
    the canvas that covers no placed label and no dot, else the one with the fewest faults in that
    order; where that ends in overlaps and the fixed places have fewer, they are kept.
    """
    placed = _place(size, centres, label_sizes, radius, policy)
    if policy == "auto" and any(label.overlaps for label in placed):
        fixed = _place(size, centres, label_sizes, radius, "fixed")
        return min(placed, fixed, key=_faults)
    return placed


def _faults(labels: list[PlacedLabel]) -> tuple[int, int]:
    return sum(label.out_of_canvas for label in labels), sum(label.overlaps > 0 for label in labels)


@lru_cache(maxsize=64)
def legible_layout(size: tuple[int, int], options: OverlayOptions) -> Layout:
    """The layout of the legible profile. Raises ImageTooSmallError."""
    matrix, font_px = choose_matrix_and_font(size, options)
    radius, padding = _radius(font_px, options), _padding(font_px)
    centres = dot_centres(matrix, size, options.jitter, options.seed)
    texts = matrix_labels(
        options.label_style, matrix, options.image_index, options.shuffle_labels, options.seed
    )
    sizes = [
        (width + 2 * padding, height + 2 * padding)
        for width, height in (text_size(text, font_px) for text in texts)
    ]
    labels = place_labels(size, centres, sizes, radius, options.placement)
    return Layout(matrix, font_px, radius, padding, tuple(texts), tuple(centres), tuple(labels))


def layout_key(options: OverlayOptions) -> OverlayOptions:
    """The same options without what a layout does not depend on, so that it is cached once."""
    return replace(options, color="auto", plate="auto", opacity=1.0, grid=False)
