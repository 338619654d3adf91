"""Images in and out: header and limits first, strict decoding, sRGB, fast writers. A pure package."""

from services.vision.imaging.decode import DecodeOptions, Picture, decode
from services.vision.imaging.encode import MEDIA_TYPES, EncodeOptions, OutputFormat, encode
from services.vision.imaging.errors import (
    FrameNotFoundError,
    ImageTooLargeError,
    ImagingError,
    MalformedImageError,
    TooManyFramesError,
    UnsupportedImageError,
    UnwritableError,
)
from services.vision.imaging.header import READABLE, ImageHeader, read_header, sniff
from services.vision.imaging.limits import Limits
from services.vision.imaging.resize import Resize

__all__ = [
    "MEDIA_TYPES",
    "READABLE",
    "DecodeOptions",
    "EncodeOptions",
    "FrameNotFoundError",
    "ImageHeader",
    "ImageTooLargeError",
    "ImagingError",
    "Limits",
    "MalformedImageError",
    "OutputFormat",
    "Picture",
    "Resize",
    "TooManyFramesError",
    "UnsupportedImageError",
    "UnwritableError",
    "decode",
    "encode",
    "read_header",
    "sniff",
]
