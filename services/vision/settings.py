"""Settings of the vision service."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from services.vision.imaging import Limits
from shared.settings import ServiceSettings


class VisionSettings(ServiceSettings):
    """Scaffold prompting. Images live only as long as their request; nothing is stored."""

    service: ClassVar[str] = "vision"

    vision_workers: int = Field(2, ge=1, le=64, description="processes that decode and draw images")
    vision_queue: int = Field(
        32, ge=0, le=10_000, description="requests that may wait for a worker; the next is answered 503"
    )
    vision_task_seconds: float = Field(
        20.0, gt=0, le=600, description="time one image may take before its worker is killed"
    )
    vision_worker_memory_bytes: int = Field(
        2 << 30, ge=256 << 20, description="address space of one worker; 50 megapixels need up to 1.6 GiB"
    )
    vision_max_bytes: int = Field(20_000_000, gt=0, description="largest image file accepted")
    vision_max_pixels: int = Field(
        50_000_000, gt=0, description="most pixels of a request, read from the headers before decoding"
    )
    vision_max_side: int = Field(16_384, gt=0, le=65_535, description="longest side of an image, in pixels")
    vision_max_frames: int = Field(16, ge=1, le=64, description="most images of a sequence or frames drawn")
    vision_model: str | None = Field(
        None, description="model behind /v1/vision/ask, by its name at the gateway; must take images"
    )
    vision_model_side: int = Field(
        1024, ge=64, le=16_384, description="longer side of the images sent to the model, in pixels"
    )
    vision_ocr_seconds: float = Field(60.0, gt=0, description="time one legibility check may take")
    vision_ocr_memory_bytes: int = Field(6 << 30, ge=1 << 30, description="address space of the OCR worker")

    def limits(self) -> Limits:
        """What one image may cost."""
        return Limits(
            max_pixels=self.vision_max_pixels,
            max_side=self.vision_max_side,
            max_frames=self.vision_max_frames,
        )
