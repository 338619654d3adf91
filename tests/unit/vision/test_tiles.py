"""Painted marks against compositing in floating point, and against Pillow's own text."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.vision.photos import noise
from services.vision.scaffold.colour import Pixels
from services.vision.scaffold.fonts import CACHED_PX, label_font, text_mask
from services.vision.scaffold.tiles import LabelPart, Style, mark_tile

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
RED = (220, 20, 20)


def painted(ground: Pixels, radius: int | None, label: LabelPart | None, style: Style) -> Pixels:
    canvas = ground.copy()
    mark_tile(radius, label, style).paint(canvas.reshape(len(canvas), -1), 60, 40)
    return canvas


@pytest.mark.parametrize(
    "style", [Style(BLACK, (WHITE, 160), 1.0), Style(RED, None, 1.0), Style(WHITE, None, 0.4)]
)
def test_a_label_is_the_mask_of_its_text_over_its_plate(style: Style) -> None:
    ground = noise(200, 120)
    label = LabelPart("(12,3)", 18, 2, left=7, top=-5)
    drawn = painted(ground, None, label, style)
    stroke = np.pad(text_mask(label.text, label.px), label.padding)[:, :, None] / 255
    height, width = stroke.shape[:2]
    place = np.s_[35 : 35 + height, 67 : 67 + width]
    below = ground[place].astype(float)
    colour, alpha = style.plate or (style.ink, 0)
    down, across = (np.array([0.25, 0.75, *[1.0] * (side - 4), 0.75, 0.25]) for side in (height, width))
    share = (down[:, None] * across)[:, :, None] * alpha / 255
    marked = below * (1 - share) + np.array(colour) * share
    marked = marked * (1 - stroke) + np.array(style.ink) * stroke
    expected = below * (1 - style.opacity) + marked * style.opacity
    assert np.abs(drawn[place] - expected).max() <= 1.5
    drawn[place] = ground[place]
    np.testing.assert_array_equal(drawn, ground)


def test_a_dot_is_a_disc_of_its_area() -> None:
    white = np.full((120, 200, 3), 255, dtype=np.uint8)
    drawn = painted(white, 8, None, Style(BLACK, None, 1.0))
    assert tuple(drawn[40, 60]) == BLACK
    assert float((255 - drawn[..., 0].astype(float)).sum() / 255) == pytest.approx(np.pi * 8**2, rel=0.01)


def test_dot_and_label_together_are_one_after_the_other() -> None:
    ground, style = noise(200, 120), Style(WHITE, (BLACK, 160), 0.8)
    label = LabelPart("(1,1)", 20, 2, left=9, top=0)
    apart = painted(painted(ground, 7, None, style), None, label, style)
    together = painted(ground, 7, label, style)
    assert np.abs(together.astype(int) - apart).max() <= 1


def test_what_leaves_the_canvas_is_cut_off() -> None:
    ground, style = noise(200, 120), Style(WHITE, (BLACK, 160), 1.0)
    tile = mark_tile(5, LabelPart("(26,15)", 24, 2, left=6, top=-40), style)
    large = np.pad(ground, ((100, 100), (100, 100), (0, 0)))
    for x, y in ((0, 0), (199, 119), (190, 5), (3, 118)):
        small = ground.copy()
        tile.paint(small.reshape(120, -1), x, y)
        whole = large.copy()
        tile.paint(whole.reshape(320, -1), x + 100, y + 100)
        np.testing.assert_array_equal(small, whole[100:220, 100:300])


@pytest.mark.parametrize(("x", "y"), [(-500, 40), (500, 40), (60, -500), (60, 500)])
def test_what_lies_outside_of_the_canvas_is_left_out(x: int, y: int) -> None:
    ground = noise(200, 120)
    canvas = ground.copy()
    tile = mark_tile(5, LabelPart("(1,1)", 24, 2, left=6, top=0), Style(WHITE, None, 1.0))
    tile.paint(canvas.reshape(120, -1), x, y)
    np.testing.assert_array_equal(canvas, ground)


@pytest.mark.parametrize("px", [14, CACHED_PX, CACHED_PX + 1])
def test_masks_are_pillows_text_whether_kept_or_not(px: int) -> None:
    canvas = Image.new("L", (8 * px, 3 * px), 0)
    ImageDraw.Draw(canvas).text((px, px), "(3,4)", fill=255, font=label_font(px))
    ink = np.asarray(canvas)
    rows, cols = np.nonzero(ink)
    mask = text_mask("(3,4)", px)
    mask_rows, mask_cols = np.nonzero(mask)
    np.testing.assert_array_equal(
        mask[mask_rows.min() : mask_rows.max() + 1, mask_cols.min() : mask_cols.max() + 1],
        ink[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1],
    )


def test_large_labels_are_not_kept() -> None:
    style = Style(WHITE, None, 1.0)
    small, large = (LabelPart("(1,1)", px, 2, left=3, top=0) for px in (CACHED_PX, CACHED_PX + 1))
    assert mark_tile(4, small, style) is mark_tile(4, small, style)
    assert mark_tile(4, large, style) is not mark_tile(4, large, style)
