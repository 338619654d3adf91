"""The reference's way of drawing, re-created from its published rules, as the peer to beat.

One Pillow pass per dot on the image, text rendered afresh for every label, ink from one pixel of
the partly drawn image, saved with the library's defaults. The font is Pillow's own face.
"""

from __future__ import annotations

import io
from typing import cast

from PIL import Image, ImageDraw, ImageFont


def draw_reference(image: Image.Image, rows: int = 6, cols: int = 6, t: int | None = None) -> Image.Image:
    """Overlay `rows` x `cols` dots on a copy of `image`."""
    image = image.convert("RGB")
    draw = ImageDraw.Draw(image)
    width, height = image.size
    font = ImageFont.load_default(width // 40)
    cell_width, cell_height = width / (cols + 1), height / (rows + 1)
    radius = width // 240
    for row in range(1, rows + 1):
        for col in range(1, cols + 1):
            x, y = int(col * cell_width), int(row * cell_height)
            pixel = cast(tuple[int, int, int], image.getpixel((x, y)))
            ink = (0, 0, 0) if sum(pixel) >= 255 * 3 / 2 else (255, 255, 255)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink)
            label = f"({row},{col})" if t is None else f"({t},{row},{col})"
            draw.text((x + 3, y), label, fill=ink, font=font)
    return image


def reference_file_to_file(data: bytes, kind: str, **options: int) -> bytes:
    """Bytes in, bytes out, with the library's defaults unless `options` name others."""
    sink = io.BytesIO()
    with Image.open(io.BytesIO(data)) as source:
        draw_reference(source).save(sink, kind, **options)
    return sink.getvalue()
