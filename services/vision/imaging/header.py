"""What kind of image some bytes are, and how large, from the header alone.

Reads at most a few hundred small structures whatever the file claims, decodes and inflates
nothing. Media types and file names are not asked: the bytes decide.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from services.vision.imaging.errors import MalformedImageError, UnsupportedImageError
from services.vision.imaging.tiff import TiffTags

Format = Literal["jpeg", "png", "webp", "gif", "bmp", "tiff"]
READABLE: tuple[Format, ...] = ("jpeg", "png", "webp", "gif", "bmp", "tiff")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAXIMUM_SEGMENTS = 1024
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD9)})


@dataclass(frozen=True)
class ImageHeader:
    """Format and stored size; `channels` (of the colour, where pixels are palette entries) and
    `depth` (bits each) are 0 where the header hides them. A TIFF may have pages of other sizes."""

    format: Format
    width: int
    height: int
    channels: int = 0
    depth: int = 0


def sniff(data: bytes) -> Format:
    """The format by its first bytes. Raises UnsupportedImageError."""
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data.startswith(PNG_SIGNATURE):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[:2] == b"BM":
        return "bmp"
    if data[:4] in (b"II*\0", b"MM\0*"):
        return "tiff"
    raise UnsupportedImageError(f"the bytes are none of the formats that are read: {', '.join(READABLE)}")


def read_header(data: bytes) -> ImageHeader:
    """Format and size. Raises UnsupportedImageError, MalformedImageError."""
    kind = sniff(data)
    readers = {"jpeg": _jpeg, "png": _png, "webp": _webp, "gif": _gif, "bmp": _bmp, "tiff": _tiff}
    try:
        header = readers[kind](data)
    except (struct.error, IndexError):
        raise MalformedImageError(f"the {kind} header is cut off") from None
    if header.width < 1 or header.height < 1:
        raise MalformedImageError(f"the {kind} header says {header.width} x {header.height} pixels")
    return header


def jpeg_segments(data: bytes) -> list[tuple[int, int, int]]:
    """(marker, start, stop) of the payloads of all segments up to the first scan, that included.

    Raises MalformedImageError where the chain breaks or has more than 1,024 links.
    """
    segments: list[tuple[int, int, int]] = []
    offset = 2
    while len(segments) < MAXIMUM_SEGMENTS:
        if offset >= len(data) or data[offset] != 0xFF:
            raise MalformedImageError("the jpeg header is broken: a marker is missing")
        while offset < len(data) and data[offset] == 0xFF:  # any number of fill bytes is legal
            offset += 1
        if offset + 3 > len(data):
            raise MalformedImageError("the jpeg ends before its first scan")
        marker = data[offset]
        offset += 1
        if marker in _BARE_MARKERS:
            continue
        (length,) = struct.unpack_from(">H", data, offset)
        if length < 2 or offset + length > len(data) or marker == 0xD9:
            raise MalformedImageError("the jpeg header is broken: a segment has no valid length")
        segments.append((marker, offset + 2, offset + length))
        if marker == 0xDA:
            return segments
        offset += length
    raise MalformedImageError(f"the jpeg has more than {MAXIMUM_SEGMENTS} header segments")


def _jpeg(data: bytes) -> ImageHeader:
    for marker, start, stop in jpeg_segments(data):
        if marker in _FRAME_MARKERS:
            if stop - start < 6:
                break
            depth, height, width, channels = struct.unpack_from(">BHHB", data, start)
            return ImageHeader("jpeg", width, height, channels, depth)
    raise MalformedImageError("the jpeg has no frame header before its first scan")


def _png(data: bytes) -> ImageHeader:
    length, kind, width, height, depth, colour = struct.unpack_from(">I4sIIBB", data, 8)
    channels = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}.get(colour)
    if kind != b"IHDR" or length != 13 or channels is None:
        raise MalformedImageError("the png does not begin with a valid IHDR chunk")
    return ImageHeader("png", width, height, channels, depth)


def _webp(data: bytes) -> ImageHeader:
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
        if len(data) < 30:
            raise MalformedImageError("the webp header is cut off")
    elif kind == b"VP8L":
        signature, bits = struct.unpack_from("<BI", data, 20)
        if signature != 0x2F:
            raise MalformedImageError("the webp has no valid lossless header")
        width, height = (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    elif kind == b"VP8 ":
        start, width, height = struct.unpack_from("<3sHH", data, 23)
        if start != b"\x9d\x01\x2a":
            raise MalformedImageError("the webp has no valid lossy header")
        width, height = width & 0x3FFF, height & 0x3FFF
    else:
        raise MalformedImageError("the webp has no image chunk at its start")
    return ImageHeader("webp", width, height, 0, 8)


def _gif(data: bytes) -> ImageHeader:
    width, height = struct.unpack_from("<HH", data, 6)
    return ImageHeader("gif", width, height, 1, 8)


def _bmp(data: bytes) -> ImageHeader:
    (size,) = struct.unpack_from("<I", data, 14)
    if size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    elif 40 <= size <= 256:
        width, height = struct.unpack_from("<ii", data, 18)
    else:
        raise MalformedImageError(f"the bmp has an unknown header of {size} bytes")
    return ImageHeader("bmp", width, abs(height))


def _tiff(data: bytes) -> ImageHeader:
    tags = TiffTags.read(data)
    width, height = tags.size()
    return ImageHeader("tiff", width, height, tags.number(0x115) or 1, tags.number(0x102) or 1)
