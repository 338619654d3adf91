"""The paper profile: the published rules, bit-stable, drawn one after the other with Pillow.

Kept as it is for comparisons, weaknesses included: ink chosen from one pixel of the partly drawn
image, one font size from the width alone, labels that may overlap or leave the canvas. Only the
font differs (Aileron in place of a proprietary one).
"""

from __future__ import annotations

from typing import cast

import numpy as np
from PIL import Image, ImageDraw

from services.vision.scaffold.colour import Pixels, Rgb, paper_ink, parse_colour
from services.vision.scaffold.fonts import label_font
from services.vision.scaffold.geometry import Box, dot_centres, paper_font_px, paper_radius
from services.vision.scaffold.labels import matrix_labels
from services.vision.scaffold.options import ImageTooSmallError, OverlayOptions
from services.vision.scaffold.placement import Layout, PlacedLabel

LABEL_OFFSET = 3
MINIMUM_WIDTH = 40


def draw_paper(pixels: Pixels, options: OverlayOptions) -> tuple[Pixels, Layout, list[Rgb]]:
    """Draw on a copy of `pixels` (H, W, 3); returns it with the layout and the ink of each dot.

    Raises ImageTooSmallError below a width of 40 px, where the font size would be 0.
    """
    size = (pixels.shape[1], pixels.shape[0])
    font_px = options.font_px or paper_font_px(size)
    if font_px < 1:
        raise ImageTooSmallError(size, options.matrix, None, MINIMUM_WIDTH)
    radius = paper_radius(size) if options.radius_px is None else options.radius_px
    matrix = options.matrix
    centres = dot_centres(matrix, size, options.jitter, options.seed)
    texts = matrix_labels(
        options.label_style, matrix, options.image_index, options.shuffle_labels, options.seed
    )
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    font = label_font(font_px)
    inks: list[Rgb] = []
    boxes: list[Box] = []
    for (x, y), text in zip(centres, texts, strict=True):
        if options.color == "auto":
            ink = paper_ink(cast(Rgb, image.getpixel((x, y))))
        else:
            ink = parse_colour(options.color)
        origin = (x + LABEL_OFFSET, y)
        if not options.no_dots:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
        if not options.no_labels:
            draw.text(origin, text, fill=ink, font=font)
        left, top, right, bottom = draw.textbbox(origin, text, font=font)
        boxes.append(Box(int(left), int(top), int(np.ceil(right)), int(np.ceil(bottom))))
        inks.append(ink)
    labels = tuple(
        PlacedLabel(
            box,
            sum(box.overlaps(other) for other in boxes) - 1,
            not box.inside(size),
        )
        for box in boxes
    )
    layout = Layout(matrix, font_px, radius, 0, tuple(texts), tuple(centres), labels)
    return np.array(image), layout, inks
