"""Mark tiles: what a painted dot with its label does to the pixels under it, as two small arrays.

Painting is `(below * keep + add) >> 8` in 16-bit integers, so plate, stroke and opacity cost one
pass over the tile whatever their number, and the same bytes come out on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from services.vision.scaffold.colour import Pixels, Plate, Rgb
from services.vision.scaffold.fonts import CACHED_PX, text_mask

Floats = NDArray[np.float64]


class Style(NamedTuple):
    """How a mark looks: its ink, a plate (colour, alpha of 255) or None, opacity in (0, 1]."""

    ink: Rgb
    plate: Plate | None
    opacity: float


class LabelPart(NamedTuple):
    """A label of font size `px` with `padding` pixels around it; (left, top) seen from the dot."""

    text: str
    px: int
    padding: int
    left: int
    top: int


class _Layer(NamedTuple):
    """`keep` (h, w) in [0, 1] is the share of the ground that stays, `add` (h, w, 3) in [0, 255] what
    is laid on it; (left, top) seen from the dot."""

    left: int
    top: int
    keep: Floats
    add: Floats


class Tile:
    """`keep` and `add`, both uint16 (height, 3 width); `keep * 255 + add` never exceeds 16 bits.
    (left, top) is their corner seen from the dot's centre."""

    __slots__ = ("add", "keep", "left", "top")

    def __init__(self, layers: Sequence[_Layer]) -> None:
        """Layers are laid over each other in order."""
        self.left = min(layer.left for layer in layers)
        self.top = min(layer.top for layer in layers)
        width = max(layer.left + layer.keep.shape[1] for layer in layers) - self.left
        height = max(layer.top + layer.keep.shape[0] for layer in layers) - self.top
        keep, add = np.ones((height, width)), np.zeros((height, width, 3))
        for layer in layers:
            y, x = layer.top - self.top, layer.left - self.left
            part = np.s_[y : y + layer.keep.shape[0], x : x + layer.keep.shape[1]]
            keep[part] *= layer.keep
            add[part] = add[part] * layer.keep[:, :, None] + layer.add
        self.keep = np.repeat(np.floor(256 * keep).astype(np.uint16), 3, axis=1)
        self.add = (np.floor(256 * add) + 128).astype(np.uint16).reshape(height, 3 * width)

    def paint(self, rows: Pixels, x: int, y: int) -> None:
        """Lay the tile on `rows` (H, 3 W) in place, the dot's centre at (x, y); what leaves the canvas
        is cut off."""
        keep, add = self.keep, self.add
        left, top = 3 * (x + self.left), y + self.top
        right, bottom = left + keep.shape[1], top + keep.shape[0]
        if left < 0 or top < 0 or right > rows.shape[1] or bottom > rows.shape[0]:
            across = slice(max(-left, 0), max(rows.shape[1] - left, 0))
            down = slice(max(-top, 0), max(rows.shape[0] - top, 0))
            keep, add = keep[down, across], add[down, across]
            left, top, right, bottom = max(left, 0), max(top, 0), max(right, 0), max(bottom, 0)
        target = rows[top:bottom, left:right]
        mixed = target.astype(np.uint16)
        mixed *= keep
        mixed += add
        np.right_shift(mixed, 8, out=target, casting="unsafe")  # shifted, every value fits 8 bits


def _layer(left: int, top: int, stroke: Floats, ground: Floats, style: Style) -> _Layer:
    """Ink with coverage `stroke` over a plate with coverage `ground`, both (h, w) in [0, 1]."""
    colour = style.plate[0] if style.plate is not None else style.ink
    keep = (1 - ground) * (1 - stroke)
    add = (ground * (1 - stroke))[:, :, None] * np.array(colour) + stroke[:, :, None] * np.array(style.ink)
    return _Layer(left, top, 1 - style.opacity * (1 - keep), style.opacity * add)


def _dot_layer(radius: int, style: Style) -> _Layer:
    """An anti-aliased disc in a square of side `2 radius + 3`, ringed where it has a plate."""
    side = np.arange(-radius - 1, radius + 2)
    distance = np.hypot(side[None, :], side[:, None])
    disc = np.clip(radius + 0.5 - distance, 0, 1)
    ring = np.clip(radius + 1.5 - distance, 0, 1) * _coverage(style)
    return _layer(-radius - 1, -radius - 1, disc, ring, style)


def _label_layer(label: LabelPart, style: Style) -> _Layer:
    """The text on its plate, if it has one. The plate fades out over the padding: a sharp edge next
    to a bracket turns `(` into `[` for OCR models (docs/decisions/035)."""
    stroke = np.pad(text_mask(label.text, label.px).astype(np.float64) / 255, label.padding)
    down, across = (_fade(length, label.padding) for length in stroke.shape)
    return _layer(label.left, label.top, stroke, down[:, None] * across * _coverage(style), style)


def _fade(length: int, padding: int) -> Floats:
    """From 0 to 1 over `padding` pixels and back, (length,)."""
    inwards = np.arange(length) + 0.5
    return np.asarray(np.minimum(1, np.minimum(inwards, inwards[::-1]) / padding))


def _coverage(style: Style) -> float:
    return style.plate[1] / 255 if style.plate is not None else 0.0


def _build(radius: int | None, label: LabelPart | None, style: Style) -> Tile:
    layers = [_dot_layer(radius, style)] if radius is not None else []
    if label is not None:
        layers.append(_label_layer(label, style))
    return Tile(layers)


_cached = lru_cache(maxsize=1024)(_build)


def mark_tile(radius: int | None, label: LabelPart | None, style: Style) -> Tile:
    """The tile of a dot of `radius` pixels and its label; either may be left out, not both."""
    small = label is None or label.px <= CACHED_PX
    return (_cached if small else _build)(radius, label, style)
