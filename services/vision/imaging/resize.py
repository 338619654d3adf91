"""The working size: how large the image is on which the dots are drawn."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from services.vision.scaffold.colour import Pixels


@dataclass(frozen=True)
class Resize:
    """`max_side` shrinks to at most that many pixels; `min_side` enlarges until the shorter side
    has that many, as far as `max_side` allows. None leaves the image alone."""

    max_side: int | None = None
    min_side: int | None = None

    def target(self, size: tuple[int, int]) -> tuple[int, int]:
        """Working (width, height) of an image of `size`; the aspect is kept to the pixel."""
        scale = 1.0
        if self.min_side is not None and min(size) < self.min_side:
            scale = self.min_side / min(size)
        if self.max_side is not None and max(size) * scale > self.max_side:
            scale = self.max_side / max(size)
        if scale == 1.0:
            return size
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def apply(self, pixels: Pixels, size: tuple[int, int]) -> tuple[Pixels, str | None]:
        """Bring pixels (H, W, 3), decoded from an image of upright `size` at that size or at a
        reduced scale, to the working size with Lanczos; also a warning code where it differs."""
        target = self.target(size)
        if target != (pixels.shape[1], pixels.shape[0]):
            image = Image.fromarray(pixels).resize(target, Image.Resampling.LANCZOS, reducing_gap=2.0)
            pixels = np.array(image)
        if target == size:
            return pixels, None
        return pixels, "reduced" if target[0] < size[0] else "enlarged"
