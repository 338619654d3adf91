"""Ink for a label: relative luminance and contrast as in WCAG 2, the paper's rule beside it.

Pixels are 8-bit sRGB. All rules look at the undrawn image, except the paper's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Rgb = tuple[int, int, int]
Plate = tuple[Rgb, int]
"""What lies between picture and label: colour, alpha of 255."""
Pixels = NDArray[np.uint8]

BLACK: Rgb = (0, 0, 0)
WHITE: Rgb = (255, 255, 255)
NAMED_COLOURS: dict[str, Rgb] = {
    "black": BLACK,
    "white": WHITE,
    "yellow": (255, 225, 0),
    "magenta": (230, 0, 190),
    "red": (220, 20, 20),
    "cyan": (0, 200, 220),
}
MINIMUM_CONTRAST = 4.5
"""WCAG 2.2 success criterion 1.4.3 for text of normal size."""
CONTRAST_QUANTILE = 0.2
"""A label counts as readable where four fifths of its area reach the contrast."""
PAPER_THRESHOLD = 255 * 3 / 2

_HEX = re.compile(r"#[0-9a-fA-F]{6}")
_CHANNEL = np.arange(256, dtype=np.float64) / 255
LINEAR: NDArray[np.float32] = np.where(
    _CHANNEL <= 0.04045, _CHANNEL / 12.92, ((_CHANNEL + 0.055) / 1.055) ** 2.4
).astype(np.float32)
"""sRGB transfer function as a table: 8-bit value -> linear light in [0, 1]."""
_FLARE = np.float32(0.05)
"""What WCAG adds to both luminances for the light that a screen reflects."""
_WEIGHTS = (0.2126, 0.7152, 0.0722)
_WEIGHTED = np.stack([LINEAR * np.float32(weight) for weight in _WEIGHTS])

PaletteName = Literal["black", "white", "yellow", "magenta", "red", "cyan"]


def parse_colour(text: str) -> Rgb:
    """Read a colour name or `#rrggbb`. Raises ValueError naming what is understood."""
    if text in NAMED_COLOURS:
        return NAMED_COLOURS[text]
    if _HEX.fullmatch(text):
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    names = ", ".join(NAMED_COLOURS)
    raise ValueError(f"{text!r} is not a colour: use {names} or #rrggbb")


@lru_cache(maxsize=256)
def to_hex(colour: Rgb) -> str:
    """`#rrggbb` of a colour."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def paper_ink(pixel: Rgb) -> Rgb:
    """The paper's rule: black where R + G + B >= 382.5, else white."""
    return BLACK if sum(pixel) >= PAPER_THRESHOLD else WHITE


def relative_luminance(pixels: Pixels) -> NDArray[np.float32]:
    """WCAG relative luminance of pixels (..., 3) -> (...), in [0, 1]."""
    return _looked_up(_WEIGHTED, pixels)


def luminance_under(pixels: Pixels, plates: Sequence[Plate | None]) -> NDArray[np.float32]:
    """Relative luminance of pixels (labels, samples, 3) -> (labels, samples), each label's behind its
    plate if it has one."""
    kinds = tuple(dict.fromkeys(plates))
    which = np.array([kinds.index(plate) for plate in plates], dtype=np.intp)
    return _looked_up(_weighted_under(kinds), pixels + 256 * which[:, None, None])


def _looked_up(tables: NDArray[np.float32], levels: NDArray[Any]) -> NDArray[np.float32]:
    """The sum over the last axis of `levels` (..., 3), each channel through its row of `tables`."""
    luminance: NDArray[np.float32] = tables[0].take(levels[..., 0])
    luminance += tables[1].take(levels[..., 1])
    luminance += tables[2].take(levels[..., 2])
    return luminance


@lru_cache(maxsize=64)
def _weighted_under(plates: tuple[Plate | None, ...]) -> NDArray[np.float32]:
    """The tables of `_WEIGHTED` behind every plate, one after the other, (3, 256 plates)."""
    levels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    behind = [levels if plate is None else blend(levels, *plate) for plate in plates]
    return np.concatenate(
        [np.take_along_axis(_WEIGHTED, below.T.astype(np.intp), axis=1) for below in behind], axis=1
    )


def luminance_of(colour: Rgb) -> float:
    """WCAG relative luminance of one colour."""
    return float(sum(_WEIGHTED[i][value] for i, value in enumerate(colour)))


def contrast(first: float, second: float) -> float:
    """WCAG contrast ratio of two relative luminances, in [1, 21]."""
    light, dark = max(first, second), min(first, second)
    return (light + 0.05) / (dark + 0.05)


def contrast_at_quantile(
    ink: NDArray[np.float32], background: NDArray[np.float32], quantile: float = CONTRAST_QUANTILE
) -> NDArray[np.float32]:
    """Contrast that all but the worst `quantile` of each label's area reach.

    `ink` holds relative luminances (labels,), `background` (labels, samples); returns (labels,).
    """
    level = ink[:, None]
    ratio = np.maximum(background, level)
    ratio += _FLARE
    below = np.minimum(background, level)
    below += _FLARE
    ratio /= below
    ratio.sort(axis=1)  # quicker than a partition of so few values
    return ratio[:, int(quantile * (ratio.shape[1] - 1))]


def blend(background: Rgb | Pixels, colour: Rgb, alpha: int) -> Pixels:
    """Lay `colour` with `alpha` of 255 over a colour or over pixels (..., 3), rounded."""
    below = np.asarray(background, dtype=np.uint32)
    above = np.asarray(colour, dtype=np.uint32) * alpha
    return ((below * (255 - alpha) + above + 127) // 255).astype(np.uint8)
