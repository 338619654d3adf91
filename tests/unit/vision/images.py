"""Files for the edge cases: every format, mode and trap that the service must survive."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from benchmarks.vision.photos import Pixels, photo
from services.vision.imaging import DecodeOptions, Limits, Picture, decode


def save(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def picture(width: int = 320, height: int = 240, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A photo-like image."""
    return Image.fromarray(photo(width, height, seed)).convert(mode)


def oriented_jpeg(orientation: int, width: int = 320, height: int = 240) -> bytes:
    """A JPEG whose EXIF says how to turn it."""
    image = picture(width, height)
    exif = Image.Exif()
    exif[0x112] = orientation
    return save(image, "JPEG", exif=exif, quality=95)


def animated(kind: str, frames: int = 3, size: tuple[int, int] = (320, 240)) -> bytes:
    """GIF, WebP or APNG whose frames are grey levels 0, 40, 80 ..."""
    pictures = [Image.new("RGB", size, (40 * index % 256,) * 3) for index in range(frames)]
    options: dict[str, Any] = {"save_all": True, "append_images": pictures[1:], "duration": 50}
    if kind == "WEBP":
        options["lossless"] = True
    return save(pictures[0], kind, **options)


def png_chunk(kind: bytes, payload: bytes) -> bytes:
    """One PNG chunk with its checksum."""
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def with_png_chunk(png: bytes, kind: bytes, payload: bytes) -> bytes:
    """Insert a chunk behind IHDR."""
    return png[:33] + png_chunk(kind, payload) + png[33:]


def one_bit_png(side: int) -> bytes:
    """A tiny file that claims side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    return (
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows) + png_chunk(b"IEND", b"")
    )


def srgb_profile() -> bytes:
    """The sRGB profile of LittleCMS."""
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """An RGB profile whose primaries are not sRGB's: red and blue exchanged.

    Built from the sRGB profile by exchanging the tags rXYZ and bXYZ, and renamed so that it does
    not pass for sRGB.
    """
    profile = srgb_profile().replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))
    profile = profile.replace(b"sRGB", b"xRGB")
    return profile.replace(b"rXYZ", b"tmp1").replace(b"bXYZ", b"rXYZ").replace(b"tmp1", b"bXYZ")


def grey_profile(gamma: float) -> bytes:
    """A minimal ICC profile of grey with a gamma: device class and white point, one curve.

    ICC.1:2001-04, sections 6.1 (header), 6.3.1 (monochrome input profiles).
    """
    white = struct.pack(">4sI3i", b"XYZ ", 0, 63190, 65536, 54061)  # D50 in units of 1/65536
    curve = struct.pack(">4sIIH2x", b"curv", 0, 1, round(256 * gamma))
    name = b"desc" + struct.pack(">II", 0, 5) + b"grey\0" + bytes(4 + 4 + 2 + 1 + 67)
    right = b"text\0\0\0\0none\0" + bytes(3)
    parts = [(b"desc", name + bytes(-len(name) % 4)), (b"cprt", right), (b"wtpt", white), (b"kTRC", curve)]
    table, data, offset = struct.pack(">I", len(parts)), b"", 128 + 4 + 12 * len(parts)
    for signature, part in parts:
        table += struct.pack(">4sII", signature, offset + len(data), len(part))
        data += part
    size = 128 + len(table) + len(data)
    header = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + table + data


def tiff_pages(*pages: tuple[Image.Image, int]) -> bytes:
    """A TIFF of pages, each with a size and an EXIF orientation of its own."""
    for page, orientation in pages:
        exif = Image.Exif()
        exif[0x112] = orientation
        page.encoderinfo = {"exif": exif}
    first, *rest = (page for page, _ in pages)
    return save(first, "TIFF", save_all=True, append_images=rest, **first.encoderinfo)


def gradient_16(width: int = 256, height: int = 64) -> np.ndarray[Any, np.dtype[np.uint16]]:
    """A grey ramp over the whole 16-bit range."""
    return np.broadcast_to(np.linspace(0, 65535, width).astype(np.uint16), (height, width)).copy()


def load(data: bytes, **options: Any) -> Picture:
    """The one picture in a file, with the limits of the service."""
    (result,) = decode(data, Limits(), DecodeOptions(**options))
    return result


def close(pixels: Pixels, image: Image.Image, tolerance: float) -> bool:
    """Whether the mean difference is at most `tolerance` grey levels."""
    expected = np.asarray(image.convert("RGB")).astype(float)
    return bool(np.abs(pixels.astype(float) - expected).mean() <= tolerance)
