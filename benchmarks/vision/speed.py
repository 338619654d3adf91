"""One image through the drawing path: against the reference's way, and against codecs alone.

Same run, same image, one after the other in turn; the minimum of many rounds, so that what else
runs on the machine falls out as far as it can.
"""

from __future__ import annotations

import gc
import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import orjson
import pyspng
import simplejpeg
from PIL import Image

from benchmarks.vision.photos import photo
from benchmarks.vision.reference import reference_file_to_file
from services.vision.imaging import EncodeOptions, OutputFormat, encode
from services.vision.work.tasks import OverlayJob, overlay, to_parameters

SIZE = (1920, 1080)
QUALITY = 85
TARGETS = {"jpeg": 1.25, "png": 8.0}
"""How many times faster than the reference's way, at least."""
CODEC_TARGET = 1.25
"""How many times the time of decoding and encoding alone, at most."""


@dataclass(frozen=True)
class PathTimes:
    """Milliseconds of one format, file to file."""

    format: OutputFormat
    bytes_in: int
    ours: float
    reference: float
    reference_same_quality: float
    codec_only: float

    @property
    def speedup(self) -> float:
        """Against the reference's way at the quality we write, the harder comparison."""
        return min(self.reference, self.reference_same_quality) / self.ours

    @property
    def over_codec(self) -> float:
        return self.ours / self.codec_only

    def broken(self) -> list[str]:
        """Targets that are missed."""
        found: list[str] = []
        if self.speedup < TARGETS[self.format]:
            found.append(f"{self.format}: {self.speedup:.2f}x the reference < {TARGETS[self.format]}x")
        if self.over_codec > CODEC_TARGET:
            found.append(f"{self.format}: {self.over_codec:.2f}x codec-only > {CODEC_TARGET}x")
        return found


def interleaved(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Minimum CPU milliseconds of every function, called in turn."""
    best = dict.fromkeys(functions, float("inf"))
    for function in functions.values():
        function()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, function in functions.items():
                started = time.process_time()
                function()
                best[name] = min(best[name], time.process_time() - started)
    finally:
        gc.enable()
    return {name: 1000 * seconds for name, seconds in best.items()}


def _codec_only(form: OutputFormat, data: bytes) -> bytes:
    """The bare libraries that our path uses, nothing between them."""
    if form == "jpeg":
        pixels = simplejpeg.decode_jpeg(data, "RGB", fastupsample=True)
    else:
        pixels = pyspng.load(data, format="RGB")
    return encode(pixels, EncodeOptions(form, QUALITY))


def photo_file(form: OutputFormat) -> bytes:
    """The benchmark's photo as a camera or a screenshot tool would save it."""
    sink = io.BytesIO()
    options = {"quality": QUALITY} if form == "jpeg" else {}
    Image.fromarray(photo(*SIZE)).save(sink, form.upper(), **options)
    return sink.getvalue()


def measure_path(form: OutputFormat, rounds: int) -> PathTimes:
    """Time one format: ours is the worker's whole job, JSON in and out included."""
    data = photo_file(form)
    job = orjson.dumps(to_parameters(OverlayJob(encode=EncodeOptions(form, QUALITY))))
    kind = form.upper()
    same: dict[str, int] = {"quality": QUALITY} if form == "jpeg" else {}
    times = interleaved(
        {
            "ours": lambda: orjson.dumps(overlay(job, [data])[0]),
            "codec_only": lambda: _codec_only(form, data),
            "reference": lambda: reference_file_to_file(data, kind),
            "reference_same_quality": lambda: reference_file_to_file(data, kind, **same),
        },
        rounds,
    )
    return PathTimes(form, len(data), **times)


def measure_codecs(rounds: int) -> dict[str, tuple[float, int | None]]:
    """The candidates behind the choice of codecs: milliseconds, and bytes for writers."""
    cv2.setNumThreads(1)
    pixels = photo(*SIZE)
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    image = Image.fromarray(pixels)
    jpeg, png = photo_file("jpeg"), photo_file("png")

    def pillow(kind: str, **options: int) -> bytes:
        sink = io.BytesIO()
        image.save(sink, kind, **options)
        return sink.getvalue()

    def opencv(extension: str, *flags: int) -> bytes:
        return cv2.imencode(extension, bgr, list(flags))[1].tobytes()

    def read(data: bytes) -> None:
        with Image.open(io.BytesIO(data)) as source:
            source.load()

    candidates: dict[str, Callable[[], object]] = {
        "read JPEG, Pillow": lambda: read(jpeg),
        "read JPEG, OpenCV": lambda: cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR),
        "read JPEG, simplejpeg": lambda: simplejpeg.decode_jpeg(jpeg, "RGB"),
        "read JPEG, simplejpeg, chroma repeated *": lambda: simplejpeg.decode_jpeg(
            jpeg, "RGB", fastupsample=True
        ),
        "read PNG, Pillow": lambda: read(png),
        "read PNG, OpenCV": lambda: cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR),
        "read PNG, pyspng *": lambda: pyspng.load(png, format="RGB"),
        "write JPEG q85, Pillow": lambda: pillow("JPEG", quality=QUALITY),
        "write JPEG q85, OpenCV": lambda: opencv(".jpg", cv2.IMWRITE_JPEG_QUALITY, QUALITY),
        "write JPEG q85, simplejpeg *": lambda: encode(pixels, EncodeOptions("jpeg", QUALITY)),
        "write PNG, Pillow level 6": lambda: pillow("PNG"),
        "write PNG, Pillow level 1": lambda: pillow("PNG", compress_level=1),
        "write PNG, OpenCV level 1": lambda: opencv(".png", cv2.IMWRITE_PNG_COMPRESSION, 1),
        "write PNG, fpng *": lambda: encode(pixels, EncodeOptions("png")),
        "write WebP q80, Pillow method 4": lambda: pillow("WEBP", quality=80, method=4),
        "write WebP q80, OpenCV": lambda: opencv(".webp", cv2.IMWRITE_WEBP_QUALITY, 80),
        "write WebP q80, Pillow method 0 *": lambda: encode(pixels, EncodeOptions("webp", 80)),
    }
    times = interleaved(candidates, rounds)
    sizes = {
        name: len(made) if isinstance(made := function(), bytes) else None
        for name, function in candidates.items()
    }
    return {name: (times[name], sizes[name]) for name in candidates}
