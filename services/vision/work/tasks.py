"""The jobs a worker knows: overlay, view, legibility. JSON and bytes in, JSON and bytes out."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from services.vision.imaging import (
    DecodeOptions,
    EncodeOptions,
    ImageTooLargeError,
    ImagingError,
    Limits,
    Picture,
    Resize,
    TooManyFramesError,
    decode,
    encode,
    read_header,
)
from services.vision.scaffold import (
    Affine,
    Box,
    ImageTooSmallError,
    Matrix,
    OverlayOptions,
    crop_box,
    draw_overlay,
)
from services.vision.scaffold.colour import MINIMUM_CONTRAST, Pixels, to_hex
from services.vision.scaffold.drawing import Overlay
from services.vision.scaffold.perception import Mark
from services.vision.scaffold.placement import Layout
from services.vision.scaffold.resolve import original_box

Blobs = list[bytes]
Task = Callable[[bytes, Blobs], tuple[dict[str, Any], Blobs]]


@dataclass(frozen=True)
class OverlayJob:
    """Draw on every given image; with `sequence`, images and frames are numbered from 1."""

    limits: Limits = field(default_factory=Limits)
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    overlay: OverlayOptions = field(default_factory=OverlayOptions)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    sequence: bool = False
    include_original: bool = False


@dataclass(frozen=True)
class ViewJob:
    """Show a part of an image: `box` in upright pixels, or `dots` (row, col) with `radius` cells
    around them, or all of it. `crop_matrix` is laid over the part where `mark` is rescaffold;
    `resize` applies to what is cut out."""

    limits: Limits = field(default_factory=Limits)
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    overlay: OverlayOptions = field(default_factory=OverlayOptions)
    encode: EncodeOptions = field(default_factory=EncodeOptions)
    mark: Mark = "none"
    box: Box | None = None
    dots: tuple[tuple[float, float], ...] = ()
    radius: float = 2.0
    crop_matrix: Matrix = field(default_factory=Matrix)
    resize: Resize = field(default_factory=Resize)


@dataclass(frozen=True)
class LegibilityJob:
    """Draw on one image and read the labels back."""

    limits: Limits = field(default_factory=Limits)
    decode: DecodeOptions = field(default_factory=DecodeOptions)
    overlay: OverlayOptions = field(default_factory=OverlayOptions)


_OVERLAY_JOB = TypeAdapter(OverlayJob)
_VIEW_JOB = TypeAdapter(ViewJob)
_LEGIBILITY_JOB = TypeAdapter(LegibilityJob)


@lru_cache(maxsize=64)
def _overlay_job(parameters: bytes) -> OverlayJob:
    """Kept, since most callers ask for the same things again."""
    return _OVERLAY_JOB.validate_json(parameters)


def _milliseconds(start: float) -> float:
    return round(1000 * (time.perf_counter() - start), 3)


@lru_cache(maxsize=16)
def _places(layout: Layout, t: int | None, to_stored: Affine) -> list[dict[str, Any]]:
    """The dots of a layout as they are answered; their ink is still to be filled in."""
    places = zip(layout.matrix.positions(), layout.centres, layout.texts, layout.labels, strict=True)
    entries: list[dict[str, Any]] = []
    for (row, col), (x, y), text, label in places:
        x_original, y_original = to_stored.apply(x, y)
        entries.append(
            {
                "label": text,
                "t": t,
                "row": row,
                "col": col,
                "x": x,
                "y": y,
                "x_original": round(x_original, 3),
                "y_original": round(y_original, 3),
                "color": "",
                "label_box": (label.box.left, label.box.top, label.box.right, label.box.bottom),
                "contrast": 0.0,
                "overlaps": label.overlaps,
                "plate": False,
            }
        )
    return entries


def _overlay_facts(drawn: Overlay, t: int | None, to_stored: Affine) -> dict[str, Any]:
    legibility, layout = drawn.legibility, drawn.layout
    return {
        "matrix": {"rows": layout.matrix.rows, "cols": layout.matrix.cols},
        "font_px": layout.font_px,
        "radius_px": layout.radius,
        "dots": [
            {**place, "color": to_hex(colour), "contrast": round(contrast, 3), "plate": plate is not None}
            for place, (colour, plate, contrast) in zip(
                _places(layout, t, to_stored), drawn.inks, strict=True
            )
        ],
        "legibility": {
            "min_contrast": round(legibility.min_contrast, 3),
            "mean_contrast": round(legibility.mean_contrast, 3),
            "overlaps": legibility.overlaps,
            "out_of_canvas": legibility.out_of_canvas,
        },
    }


def _warnings(picture: Picture, drawn: Overlay, options: OverlayOptions) -> list[str]:
    found = list(picture.warnings)
    legibility = drawn.legibility
    if drawn.matrix != options.matrix:
        found.append("matrix_reduced")
    if not options.no_labels:
        if legibility.overlaps:
            found.append("labels_overlap")
        if legibility.out_of_canvas:
            found.append("labels_out_of_canvas")
        if legibility.min_contrast < MINIMUM_CONTRAST:
            found.append("low_contrast")
    return found


def _picture_facts(picture: Picture) -> dict[str, Any]:
    width, height = picture.size
    return {
        "original_size": picture.stored_size,
        "upright_size": picture.upright_size,
        "working_size": (width, height),
        "scale_x": round(width / picture.upright_size[0], 6),
        "scale_y": round(height / picture.upright_size[1], 6),
        "orientation": picture.orientation,
        "transform": picture.to_stored.rows(),
        "frame": picture.frame,
        "frames": picture.frames,
    }


def _decode_all(job: OverlayJob, images: Blobs) -> list[Picture]:
    """All pictures of a job within one pixel budget, counted from the headers first."""
    if len(images) > 1:  # one alone is checked where it is decoded
        headers = [read_header(data) for data in images]
        total = sum(header.width * header.height for header in headers)
        if total > job.limits.max_pixels:
            raise ImageTooLargeError(
                f"the images have {total} pixels together, at most {job.limits.max_pixels}"
            )
    how = replace(job.decode, replicate_chroma=job.encode.halves_chroma)
    pictures = [picture for data in images for picture in decode(data, job.limits, how)]
    if len(pictures) > job.limits.max_frames:
        raise TooManyFramesError(f"the images have {len(pictures)} frames, at most {job.limits.max_frames}")
    return pictures


def overlay(parameters: bytes, blobs: Blobs) -> tuple[dict[str, Any], Blobs]:
    """Run an OverlayJob: one entry and one blob per picture, two blobs with `include_original`."""
    job = _overlay_job(parameters)
    start = time.perf_counter()
    pictures = _decode_all(job, blobs)
    decode_ms = _milliseconds(start) / len(pictures)
    numbered = job.sequence or len(pictures) > 1
    entries: list[dict[str, Any]] = []
    produced: Blobs = []
    for index, picture in enumerate(pictures, start=1):
        t = index if numbered else job.overlay.image_index
        options = replace(job.overlay, image_index=t)
        plain = encode(picture.pixels, job.encode) if job.include_original else None
        start = time.perf_counter()
        drawn = draw_overlay(picture.pixels, options)
        draw_ms, start = _milliseconds(start), time.perf_counter()
        produced.append(encode(drawn.pixels, job.encode))
        encode_ms = _milliseconds(start)
        if plain is not None:
            produced.append(plain)
        entries.append(
            {
                "t": t,
                **_picture_facts(picture),
                **_overlay_facts(drawn, t, picture.to_stored),
                "warnings": _warnings(picture, drawn, options),
                "timing_ms": {"decode": round(decode_ms, 3), "draw": draw_ms, "encode": encode_ms},
            }
        )
    return {"pictures": entries}, produced


def _part(job: ViewJob, picture: Picture) -> Box:
    if job.dots:
        return crop_box(job.overlay.matrix, picture.size, job.dots, job.radius)
    box = job.box or Box(0, 0, *picture.size)
    return box.clamped(picture.size)


def view(parameters: bytes, blobs: Blobs) -> tuple[dict[str, Any], Blobs]:
    """Run a ViewJob. Cuts from the full resolution, then resizes: that is what zooming is for."""
    job = _VIEW_JOB.validate_json(parameters)
    (picture,) = decode(blobs[0], job.limits, replace(job.decode, resize=Resize()))
    box = _part(job, picture)
    whole = box.size == picture.size
    facts: dict[str, Any] = {}
    pixels = picture.pixels
    to_stored = Affine.translation(box.left, box.top).then(picture.to_stored)
    if job.mark == "overlay" and not whole:
        drawn = draw_overlay(pixels, job.overlay)
        facts = _cropped_facts(drawn, box, job.overlay, picture.to_stored)
        pixels = drawn.pixels
    pixels = pixels[box.top : box.bottom, box.left : box.right]
    pixels, _ = job.resize.apply(pixels, box.size)
    size = (pixels.shape[1], pixels.shape[0])
    to_part = Affine.resize(size, box.size)
    to_stored = to_part.then(to_stored)
    if job.mark == "rescaffold" or (job.mark == "overlay" and whole):
        matrix = job.overlay.matrix if job.mark == "overlay" else job.crop_matrix
        drawn = draw_overlay(pixels, replace(job.overlay, matrix=matrix))
        facts = _overlay_facts(drawn, job.overlay.image_index, to_stored)
        pixels = drawn.pixels
    elif facts:
        _move_dots(facts, to_part.inverse())
    result = {
        **_picture_facts(picture),
        "working_size": size,
        "box_working": (box.left, box.top, box.right, box.bottom),
        "box_original": original_box(box, picture.to_stored),
        "scale_x": round(size[0] / box.size[0], 6),
        "scale_y": round(size[1] / box.size[1], 6),
        "transform": to_stored.rows(),
        "to_upright": to_part.then(Affine.translation(box.left, box.top)).rows(),
        "warnings": list(picture.warnings),
        **facts,
    }
    return result, [encode(_contiguous(pixels), job.encode)]


def _contiguous(pixels: Pixels) -> Pixels:
    return pixels if pixels.flags.c_contiguous else pixels.copy()


def _cropped_facts(drawn: Overlay, box: Box, options: OverlayOptions, to_stored: Affine) -> dict[str, Any]:
    """The facts of an overlay as far as it lies inside of a crop, in crop pixels."""
    facts = _overlay_facts(drawn, options.image_index, to_stored)
    facts["dots"] = [
        dot for dot in facts["dots"] if box.left <= dot["x"] < box.right and box.top <= dot["y"] < box.bottom
    ]
    _move_dots(facts, Affine.translation(-box.left, -box.top))
    return facts


def _move_dots(facts: dict[str, Any], change: Affine) -> None:
    for dot in facts["dots"]:
        dot["x"], dot["y"] = (round(value, 3) for value in change.apply(dot["x"], dot["y"]))
        left, top, right, bottom = dot["label_box"]
        corners = (*change.apply(left, top), *change.apply(right, bottom))
        dot["label_box"] = tuple(round(value) for value in corners)


def legibility(parameters: bytes, blobs: Blobs) -> tuple[dict[str, Any], Blobs]:
    """Run a LegibilityJob. The OCR engine is loaded at the first one."""
    from services.vision.work.ocr import read_labels

    job = _LEGIBILITY_JOB.validate_json(parameters)
    (picture,) = decode(blobs[0], job.limits, job.decode)
    drawn = draw_overlay(picture.pixels, job.overlay)
    start = time.perf_counter()
    reads = read_labels(drawn)
    correct = sum(read["correct"] for read in reads)
    facts = _overlay_facts(drawn, job.overlay.image_index, picture.to_stored)
    return {
        **_picture_facts(picture),
        "matrix": facts["matrix"],
        "font_px": facts["font_px"],
        "legibility": facts["legibility"],
        "warnings": _warnings(picture, drawn, job.overlay),
        "labels": len(reads),
        "recall": round(correct / len(reads), 6),
        "reads": reads,
        "timing_ms": {"ocr": _milliseconds(start)},
    }, []


def error_reply(error: Exception) -> dict[str, str]:
    """Code and message of a failed job, never image data. A trace goes with what nobody foresaw: it
    is for the log of the service alone."""
    if isinstance(error, ImagingError):
        return {"code": error.code, "message": str(error)}
    if isinstance(error, ImageTooSmallError):
        return {"code": "image_too_small", "message": str(error)}
    if isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("rapidocr"):
        return {
            "code": "ocr_not_installed",
            "message": "install the extra `ocr` to check legibility: pip install latticework-suite[ocr]",
        }
    trace = "".join(traceback.format_exception(error))
    return {"code": "internal_error", "message": type(error).__name__, "trace": trace}


TASKS: dict[str, Task] = {"overlay": overlay, "view": view, "legibility": legibility}


_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    OverlayJob: _OVERLAY_JOB,
    ViewJob: _VIEW_JOB,
    LegibilityJob: _LEGIBILITY_JOB,
}


def to_parameters(job: OverlayJob | ViewJob | LegibilityJob) -> Any:
    """A job as JSON data."""
    return _ADAPTERS[type(job)].dump_python(job, mode="json")
