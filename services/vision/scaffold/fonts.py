"""The label font: Aileron (CC0), the face built into Pillow, as masks and measures.

Masks are cached: labels of one size are drawn over and over, and rendering text costs more than
laying a finished mask over the picture.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

CACHED_PX = 64
"""Larger labels are drawn afresh: kept, those of a few huge images would fill a worker's memory, and
beside the codecs of such images drawing them costs nothing."""
_TALLEST = "(0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ:,)"


@lru_cache(maxsize=64)
def label_font(px: int) -> ImageFont.FreeTypeFont:
    """The face at `px` pixels."""
    font = ImageFont.load_default(px)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType; its wheels have it")
    return font


@lru_cache(maxsize=64)
def line_extent(px: int) -> tuple[int, int]:
    """Top and bottom of the ink of any label, in pixels from the drawing origin."""
    _, top, _, bottom = label_font(px).getbbox(_TALLEST)
    return int(np.floor(top)), int(np.ceil(bottom))


@lru_cache(maxsize=8192)
def text_width(text: str, px: int) -> int:
    """Width of the ink of `text` in pixels."""
    left, _, right, _ = label_font(px).getbbox(text)
    return int(np.ceil(right) - np.floor(left))


def text_size(text: str, px: int) -> tuple[int, int]:
    """Width of `text` and the height that all labels of this font size share, in pixels."""
    top, bottom = line_extent(px)
    return text_width(text, px), bottom - top


def text_mask(text: str, px: int) -> NDArray[np.uint8]:
    """Coverage of `text`, 0..255, shape (height, width) of `text_size`."""
    return (_cached_mask if px <= CACHED_PX else _draw_mask)(text, px)


def _draw_mask(text: str, px: int) -> NDArray[np.uint8]:
    width, height = text_size(text, px)
    canvas = Image.new("L", (width, height), 0)
    left = int(np.floor(label_font(px).getbbox(text)[0]))
    origin = (-left, -line_extent(px)[0])
    ImageDraw.Draw(canvas).text(origin, text, fill=255, font=label_font(px))
    mask = np.array(canvas)
    mask.setflags(write=False)
    return mask


_cached_mask = lru_cache(maxsize=4096)(_draw_mask)
