"""Problems of the vision service, and how errors of its pure packages become them."""

from __future__ import annotations

from services.vision.imaging import ImagingError
from shared.problems import (
    BadRequest,
    DeadlineExceeded,
    FieldError,
    PayloadTooLarge,
    Problem,
    ServiceUnavailable,
    Unprocessable,
    UnsupportedMediaType,
)


class InvalidOptions(BadRequest):
    status, code, title = 400, "invalid_options", "The options cannot be used"


class ImageMalformed(Unprocessable):
    status, code, title = 422, "image_malformed", "The image is truncated or corrupt"


class ImageTooLarge(Unprocessable):
    status, code, title = 422, "image_too_large", "The image is larger than allowed"


class ImageTooSmall(Unprocessable):
    status, code, title = 422, "image_too_small", "The labels do not fit the image"


class TooManyFrames(Unprocessable):
    status, code, title = 422, "too_many_frames", "The animation has too many frames"


class Busy(ServiceUnavailable):
    status, code, title = 503, "busy", "All workers are busy"


class TimedOut(DeadlineExceeded):
    status, code, title = 504, "timeout", "The image took too long"


class ModelNotConfigured(ServiceUnavailable):
    status, code, title = 503, "model_not_configured", "No vision model is configured"


class OcrNotInstalled(ServiceUnavailable):
    status, code, title = 503, "ocr_not_installed", "The OCR extra is not installed"


_BY_CODE: dict[str, type[Problem]] = {
    "invalid_options": InvalidOptions,
    "image_malformed": ImageMalformed,
    "image_too_large": ImageTooLarge,
    "image_too_small": ImageTooSmall,
    "too_many_frames": TooManyFrames,
    "unsupported_media_type": UnsupportedMediaType,
    "ocr_not_installed": OcrNotInstalled,
}


def problem_for(code: str, message: str) -> Problem:
    """The problem a worker's error becomes."""
    kind = _BY_CODE.get(code, ImageMalformed)
    return kind(message[:1].upper() + message[1:] + ("" if message.endswith(".") else "."))


def problem_of(error: ImagingError) -> Problem:
    """The problem an imaging error becomes."""
    return problem_for(error.code, str(error))


__all__ = [
    "Busy",
    "FieldError",
    "ImageMalformed",
    "ImageTooLarge",
    "ImageTooSmall",
    "InvalidOptions",
    "ModelNotConfigured",
    "OcrNotInstalled",
    "PayloadTooLarge",
    "Problem",
    "TimedOut",
    "TooManyFrames",
    "UnsupportedMediaType",
    "problem_for",
    "problem_of",
]
