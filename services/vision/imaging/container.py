"""The structure around the pixels: is the file whole, how many frames, which profile, which way up.

Walks chunks without inflating image data. Text chunks are dropped, profiles are inflated only up
to the limit, so that compressed metadata cannot cost more than it is worth.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from services.vision.imaging.errors import ImageTooLargeError, MalformedImageError
from services.vision.imaging.header import PNG_SIGNATURE, ImageHeader, jpeg_segments
from services.vision.imaging.limits import Limits
from services.vision.imaging.tiff import ICC_PROFILE, orientation_of, pages_of

MAXIMUM_CHUNKS = 100_000
MAXIMUM_SMALL_CHUNKS = 1_000
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL", b"fcTL", b"fdAT"})
_ICC_MARK = b"ICC_PROFILE\0"
_EXIF_MARK = b"Exif\0\0"


@dataclass(frozen=True)
class Container:
    """`data` is the file without what the decoder must not see, `complete` False where its end is
    missing, `extent` the largest frame (width, height), `orientations` (EXIF, 1-8) are of the pages of a
    TIFF, otherwise one for all frames, `icc` is the embedded profile, `keyed` says that palette entries
    or one colour are transparent (PNG's tRNS)."""

    data: bytes
    frames: int
    extent: tuple[int, int]
    orientations: tuple[int, ...] = (1,)
    icc: bytes | None = None
    keyed: bool = False
    complete: bool = True

    def orientation(self, frame: int) -> int:
        """EXIF orientation of a frame."""
        return self.orientations[min(frame, len(self.orientations) - 1)]


def open_container(data: bytes, header: ImageHeader, limits: Limits) -> Container:
    """Walk the file. Raises MalformedImageError, ImageTooLargeError."""
    walkers = {"jpeg": _jpeg, "png": _png, "webp": _webp, "gif": _gif, "bmp": _bmp, "tiff": _tiff}
    try:
        container = walkers[header.format](data, header, limits)
    except (struct.error, IndexError):
        raise MalformedImageError(f"the {header.format} is cut off or corrupt") from None
    limits.check(*container.extent)
    return container


def _size(header: ImageHeader) -> tuple[int, int]:
    return header.width, header.height


def _checked_icc(profile: bytes, limits: Limits) -> bytes | None:
    if len(profile) > limits.max_icc_bytes:
        raise ImageTooLargeError(
            f"the colour profile has more than {limits.max_icc_bytes} bytes; strip or replace it"
        )
    return profile or None


def _jpeg(data: bytes, header: ImageHeader, limits: Limits) -> Container:
    orientation, icc = 1, b""
    segments = jpeg_segments(data)
    for marker, start, stop in segments:
        if marker == 0xE1 and data[start : start + 6] == _EXIF_MARK:
            orientation = orientation_of(data[start + 6 : stop])
        elif marker == 0xE2 and data[start : start + 12] == _ICC_MARK:
            icc += data[start + 14 : stop]
    scan = segments[-1][2]
    return Container(
        data=data,
        frames=1,
        extent=_size(header),
        orientations=(orientation,),
        icc=_checked_icc(icc, limits),
        complete=data.rfind(b"\xff\xd9", scan) >= 0,
    )


def _inflate(data: bytes, limit: int) -> bytes:
    """At most `limit` + 1 bytes of a zlib stream; empty where it is corrupt."""
    try:
        return zlib.decompressobj().decompress(data, limit + 1)
    except zlib.error:
        return b""


@dataclass
class _PngFacts:
    frames: int = 1
    orientation: int = 1
    icc: bytes | None = None
    keyed: bool = False

    def note(self, kind: bytes, payload: bytes, limits: Limits) -> None:
        if kind == b"acTL":
            self.frames = max(1, struct.unpack_from(">I", payload)[0])
        elif kind == b"eXIf":
            self.orientation = orientation_of(payload)
        elif kind == b"iCCP":
            compressed = payload[payload.index(b"\0") + 2 :] if b"\0" in payload[:80] else b""
            self.icc = _checked_icc(_inflate(compressed, limits.max_icc_bytes), limits)
        elif kind == b"tRNS":
            self.keyed = True
        elif kind == b"fcTL":
            width, height = struct.unpack_from(">II", payload, 4)
            limits.check(width, height)


def _checksum(data: bytes, end: int) -> int:
    return int.from_bytes(data[end - 4 : end], "big")


_NOTED = frozenset({b"acTL", b"eXIf", b"iCCP", b"tRNS", b"fcTL"})


def _png(data: bytes, header: ImageHeader, limits: Limits) -> Container:
    facts = _PngFacts()
    view = memoryview(data)
    kept: list[memoryview] = [memoryview(PNG_SIGNATURE)]
    dropped = False
    offset, chunks, small = 8, 0, 0
    while offset + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, offset)
        end = offset + 12 + length
        if end > len(data):
            break
        chunks, small = chunks + 1, small + (kind != b"IDAT")
        if chunks > MAXIMUM_CHUNKS or small > MAXIMUM_SMALL_CHUNKS:
            raise ImageTooLargeError("the png has too many chunks; save it anew")
        if kind == b"IHDR" and chunks > 1:
            raise MalformedImageError("the png has a second header")
        if kind == b"IDAT" and zlib.crc32(view[offset + 4 : end - 4]) != _checksum(data, end):
            raise MalformedImageError("the png is corrupt: a checksum of its pixels is wrong")
        if kind in _NOTED:
            facts.note(kind, data[offset + 8 : end - 4], limits)
        if kind in _PNG_KEPT:
            kept.append(view[offset:end])
        else:
            dropped = True
        if kind == b"IEND":
            complete = length == 0 and data[offset + 8 : end] == b"\xae\x42\x60\x82"
            clean = b"".join(kept) if dropped else data
            return Container(
                clean, facts.frames, _size(header), (facts.orientation,), facts.icc, facts.keyed, complete
            )
        offset = end
    kept.append(view[offset:])
    return Container(
        b"".join(kept), facts.frames, _size(header), (facts.orientation,), facts.icc, facts.keyed, False
    )


def _webp(data: bytes, header: ImageHeader, limits: Limits) -> Container:
    (declared,) = struct.unpack_from("<I", data, 4)
    end = min(8 + declared, len(data))
    frames, orientation, icc, offset, chunks = 0, 1, b"", 12, 0
    while offset + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, offset)
        chunks += 1
        if chunks > MAXIMUM_CHUNKS:
            raise ImageTooLargeError("the webp has too many chunks; save it anew")
        payload = offset + 8
        if kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            exif = data[payload : payload + length]
            orientation = orientation_of(exif.removeprefix(_EXIF_MARK))
        elif kind == b"ICCP":
            icc = data[payload : payload + length]
        offset = payload + length + (length & 1)
    return Container(
        data=data,
        frames=max(1, frames),
        extent=_size(header),
        orientations=(orientation,),
        icc=_checked_icc(icc, limits),
        complete=8 + declared <= len(data),
    )


def _gif_blocks(data: bytes, offset: int) -> int:
    """Offset behind a chain of sub-blocks."""
    while data[offset]:
        offset += 1 + data[offset]
    return offset + 1


def _gif(data: bytes, header: ImageHeader, limits: Limits) -> Container:
    flags = data[10]
    offset = 13 + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    frames, blocks = 0, 0
    width, height = _size(header)
    complete = False
    try:
        while blocks < MAXIMUM_CHUNKS:
            blocks += 1
            kind = data[offset]
            if kind == 0x3B:
                complete = True
                break
            if kind == 0x21:
                offset = _gif_blocks(data, offset + 2)
                continue
            if kind != 0x2C:
                raise MalformedImageError("the gif has an unknown block")
            left, top, frame_width, frame_height, local = struct.unpack_from("<HHHHB", data, offset + 1)
            width, height = max(width, left + frame_width), max(height, top + frame_height)
            table = 3 << ((local & 7) + 1) if local & 0x80 else 0
            frames += 1
            limits.check(width, height)
            offset = _gif_blocks(data, offset + 11 + table)
        else:
            raise ImageTooLargeError("the gif has too many blocks; save it anew")
    except (IndexError, struct.error):
        complete = False
    if not frames:
        raise MalformedImageError("the gif has no picture")
    return Container(data, frames, (width, height), complete=complete)


def _bmp(data: bytes, header: ImageHeader, limits: Limits) -> Container:
    (declared,) = struct.unpack_from("<I", data, 2)
    return Container(data, 1, _size(header), complete=declared <= len(data))


def _tiff(data: bytes, header: ImageHeader, limits: Limits) -> Container:
    width, height = _size(header)
    orientations: list[int] = []
    icc: bytes | None = None
    for page in pages_of(data):
        limits.check(*page.size())
        width, height = (max(pair) for pair in zip((width, height), page.size(), strict=True))
        orientations.append(page.orientation())
        icc = icc or page.raw(ICC_PROFILE)
    return Container(
        data=data,
        frames=len(orientations),
        extent=(width, height),
        orientations=tuple(orientations),
        icc=_checked_icc(icc, limits) if icc else None,
    )
