"""What an image may cost, checked from its header before a pixel is decoded."""

from __future__ import annotations

from dataclasses import dataclass

from services.vision.imaging.errors import ImageTooLargeError


@dataclass(frozen=True)
class Limits:
    """Pixels of all wanted frames together, longest side, frames, bytes of an ICC profile."""

    max_pixels: int = 50_000_000
    max_side: int = 16_384
    max_frames: int = 16
    max_icc_bytes: int = 1 << 20

    def check(self, width: int, height: int, frames: int = 1) -> None:
        """Raises ImageTooLargeError."""
        if max(width, height) > self.max_side:
            raise ImageTooLargeError(
                f"the image has {width} x {height} pixels; a side may have at most {self.max_side}"
            )
        if width * height * frames > self.max_pixels:
            what = f"{width} x {height} pixels" + (f" in {frames} frames" if frames > 1 else "")
            raise ImageTooLargeError(f"the image has {what}; at most {self.max_pixels} are read")
