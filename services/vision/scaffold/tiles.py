"""Label and dot tiles: what a painted label does to the pixels under it, as two small arrays.

Painting is `(below * keep + add) >> 8` in 16-bit integers, so plate, stroke and opacity cost one
pass over the tile whatever their number, and the same bytes come out on every machine.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from services.vision.scaffold.colour import Pixels, Rgb
from services.vision.scaffold.fonts import text_mask

Plate = tuple[Rgb, int] | None


class Tile:
    """`keep` and `add`, both uint16 (height, width, 3); `keep * 255 + add` never exceeds 16 bits."""

    __slots__ = ("add", "height", "keep", "width")

    def __init__(self, keep: NDArray[np.float64], add: NDArray[np.float64], opacity: float) -> None:
        """`keep` (h, w) in [0, 1] is the share of the ground that stays, `add` (h, w, 3) in
        [0, 255] what is laid on it."""
        keep = 1 - opacity * (1 - keep)
        self.height, self.width = keep.shape
        share = np.floor(256 * keep).astype(np.uint16)
        self.keep = np.ascontiguousarray(np.repeat(share[:, :, None], 3, axis=2))
        self.add = (np.floor(256 * opacity * add) + 128).astype(np.uint16)

    def paint(self, pixels: Pixels, left: int, top: int) -> None:
        """Lay the tile on pixels (H, W, 3) in place; what leaves the canvas is cut off."""
        height, width = pixels.shape[:2]
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + self.width, width), min(top + self.height, height)
        if x0 >= x1 or y0 >= y1:
            return
        inner = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        target = pixels[y0:y1, x0:x1]
        mixed = np.multiply(target, self.keep[inner], dtype=np.uint16)
        mixed += self.add[inner]
        mixed >>= 8
        np.copyto(target, mixed, casting="unsafe")


def _layered(
    stroke: NDArray[np.float64], ink: Rgb, plate: NDArray[np.float64], plate_colour: Rgb
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ink with coverage `stroke` over a plate with coverage `plate`, both (h, w) in [0, 1]."""
    keep = (1 - plate) * (1 - stroke)
    add = (plate * (1 - stroke))[:, :, None] * np.array(plate_colour) + stroke[:, :, None] * np.array(ink)
    return keep, add


@lru_cache(maxsize=1024)
def label_tile(text: str, px: int, padding: int, ink: Rgb, plate: Plate, opacity: float) -> Tile:
    """The tile of a label: the text with `padding` pixels around it, on its plate if it has one."""
    stroke = np.pad(text_mask(text, px).astype(np.float64) / 255, padding)
    colour, alpha = plate if plate is not None else (ink, 0)
    ground = np.full(stroke.shape, alpha / 255)
    return Tile(*_layered(stroke, ink, ground, colour), opacity)


@lru_cache(maxsize=256)
def dot_tile(radius: int, ink: Rgb, plate: Plate, opacity: float) -> Tile:
    """The tile of a dot, side `2 radius + 3`: an anti-aliased disc, ringed where it has a plate."""
    side = np.arange(-radius - 1, radius + 2)
    distance = np.hypot(side[None, :], side[:, None])
    disc = np.clip(radius + 0.5 - distance, 0, 1)
    colour, alpha = plate if plate is not None else (ink, 0)
    ring = np.clip(radius + 1.5 - distance, 0, 1) * (alpha / 255)
    return Tile(*_layered(disc, ink, ring, colour), opacity)
