"""Why an image was refused. The messages name sizes and limits, never image data."""

from __future__ import annotations

from typing import ClassVar


class ImagingError(ValueError):
    """Root; `code` is the machine-readable reason."""

    code: ClassVar[str] = "image_malformed"


class UnsupportedImageError(ImagingError):
    """Not one of the formats that are read, judged by the first bytes."""

    code = "unsupported_media_type"


class MalformedImageError(ImagingError):
    """Truncated, corrupt or inconsistent."""

    code = "image_malformed"


class ImageTooLargeError(ImagingError):
    """More pixels, a longer side or more metadata than the limits allow."""

    code = "image_too_large"


class TooManyFramesError(ImagingError):
    """An animation with more frames than are drawn at once."""

    code = "too_many_frames"


class FrameNotFoundError(ImagingError):
    """The wanted frame is beyond the last one."""

    code = "invalid_options"


class UnwritableError(ImagingError):
    """The wanted format cannot hold the picture."""

    code = "invalid_options"
