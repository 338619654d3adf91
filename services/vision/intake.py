"""Requests in: an image and its options from JSON, multipart or a raw body, strictly.

Duplicate fields, NaN and unknown names are refused with 400. Only headers of images are looked at
here, a few hundred bytes of bounded work; decoding belongs to the workers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import FormData, UploadFile

from services.vision.imaging import ImagingError, read_header
from services.vision.problems import InvalidOptions, UnsupportedMediaType, problem_of
from services.vision.settings import VisionSettings
from shared.app import validation_problem
from shared.problems import FieldError, PayloadTooLarge

Options = TypeVar("Options", bound=BaseModel)
Body = TypeVar("Body", bound=BaseModel)

_SMALL = 64 << 10
MULTIPART_OVERHEAD = 64 << 10


class _DuplicateFieldError(ValueError):
    pass


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise _DuplicateFieldError(name)
        found[name] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def parse_json(raw: bytes | str, location: str) -> Any:
    """Strict JSON: no NaN, no infinities, no field twice. Raises InvalidOptions."""
    try:
        return json.loads(raw, object_pairs_hook=_refuse_duplicates, parse_constant=_refuse_constant)
    except _DuplicateFieldError as error:
        raise InvalidOptions(
            f"The field '{error}' is given twice.",
            errors=[FieldError(location=f"{location}.{error}", message="given twice")],
        ) from None
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or (
            str(error) if "JSON number" in str(error) else type(error).__name__
        )
        raise InvalidOptions(
            f"The {location} is not valid JSON: {reason}.",
            errors=[FieldError(location=location, message="not valid JSON")],
        ) from None


def check_options(model: type[Options], data: Any, location: str) -> Options:
    """Validate options. Raises InvalidOptions naming every field at fault."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        entries = [
            {**entry, "loc": (location, *entry["loc"]) if location else entry["loc"]}
            for entry in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise validation_problem(entries, InvalidOptions) from None


async def read_json_body(request: Request, model: type[Body]) -> Body:
    """The JSON body of a request without an image."""
    _require(request, "application/json")
    raw = await request.body()
    return check_options(model, parse_json(raw, "body"), "")


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _require(request: Request, wanted: str) -> None:
    given = _media_type(request)
    if given != wanted:
        raise UnsupportedMediaType(f"Send {wanted}, not {given or 'an unnamed media type'}.")


@dataclass(frozen=True)
class ImageRequest(Generic[Options]):
    """Images as they came, headers checked, and validated options."""

    images: list[bytes]
    options: Options


async def read_image_request(
    request: Request, model: type[Options], settings: VisionSettings, *, many: bool = False
) -> ImageRequest[Options]:
    """An image request in any of its three forms.

    JSON `{"image_b64", "options"}` (with `many`: `{"images": [{"image_b64"}], "options"}`),
    multipart with the parts `image` and `options`, or the file itself as the body with the options
    as JSON in the query parameter `options`.
    """
    kind = _media_type(request)
    if kind == "application/json":
        images, options = await _from_json(request, many)
    elif kind == "multipart/form-data":
        images, options = await _from_multipart(request, many, settings)
    elif kind.startswith("image/") or kind == "application/octet-stream":
        images = [await request.body()]
        options = _only_options(request.query_params.getlist("options"), "query parameter")
    else:
        raise UnsupportedMediaType(
            f"Send application/json, multipart/form-data or an image, not {kind or 'an unnamed media type'}."
        )
    if len(images) > settings.vision_max_frames:
        raise InvalidOptions(f"At most {settings.vision_max_frames} images, here {len(images)}.")
    check_headers(images, settings)
    return ImageRequest(images, check_options(model, options, "options"))


def check_headers(images: Sequence[bytes], settings: VisionSettings) -> None:
    """Formats, sizes in bytes and pixels, before any worker is asked."""
    limits, total = settings.limits(), 0
    for data in images:
        if len(data) > settings.vision_max_bytes:
            raise PayloadTooLarge(
                f"The image has {len(data)} bytes, at most {settings.vision_max_bytes} are read."
            )
        try:
            header = read_header(data)
            limits.check(header.width, header.height)
            total += header.width * header.height
            limits.check(1, 1, total)
        except ImagingError as error:
            raise problem_of(error) from None


async def _from_json(request: Request, many: bool) -> tuple[list[bytes], Any]:
    raw = await request.body()
    if len(raw) <= _SMALL:
        return _unpack_json(raw, many)
    return await asyncio.to_thread(_unpack_json, raw, many)


def _unpack_json(raw: bytes, many: bool) -> tuple[list[bytes], Any]:
    body = parse_json(raw, "body")
    if not isinstance(body, dict):
        raise InvalidOptions("The body must be a JSON object.")
    known = {"images", "options"} if many else {"image_b64", "options"}
    for name in body:
        if name not in known:
            raise InvalidOptions(
                f"There is no field '{name}'.", errors=[FieldError(location=name, message="unknown field")]
            )
    options = body.get("options", {})
    if not many:
        return [_base64(body.get("image_b64"), "image_b64")], options
    entries = body.get("images")
    if not isinstance(entries, list) or not entries:
        raise InvalidOptions("Give `images`, a list of {image_b64}.")
    images: list[bytes] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict) or set(entry) != {"image_b64"}:
            raise InvalidOptions(f"images.{index} must be an object with the one field image_b64.")
        images.append(_base64(entry["image_b64"], f"images.{index}.image_b64"))
    return images, options


def _base64(text: Any, location: str) -> bytes:
    if not isinstance(text, str) or not text:
        raise InvalidOptions(
            f"{location} must be the base64 text of an image.",
            errors=[FieldError(location=location, message="missing or no text")],
        )
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidOptions(
            f"{location} is not valid base64.", errors=[FieldError(location=location, message="not base64")]
        ) from None


async def _from_multipart(request: Request, many: bool, settings: VisionSettings) -> tuple[list[bytes], Any]:
    async with request.form(
        max_files=settings.vision_max_frames, max_fields=4, max_part_size=MULTIPART_OVERHEAD
    ) as form:
        for name in form:
            if name not in ("image", "options"):
                raise InvalidOptions(f"There is no part '{name}': send `image` and `options`.")
        images = await _image_parts(form, many)
        options = [
            await part.read() if isinstance(part, UploadFile) else part for part in form.getlist("options")
        ]
        return images, _only_options(options, "part")


def _only_options(given: Sequence[str | bytes], what: str) -> Any:
    if len(given) > 1:
        raise InvalidOptions(f"The {what} 'options' is given twice.")
    return parse_json(given[0] if given else "{}", "options")


async def _image_parts(form: FormData, many: bool) -> list[bytes]:
    parts = form.getlist("image")
    if not parts:
        raise InvalidOptions("The part 'image' is missing.")
    if len(parts) > 1 and not many:
        raise InvalidOptions("The part 'image' is given twice; several go to /v1/vision/sequence.")
    images: list[bytes] = []
    for part in parts:
        if not isinstance(part, UploadFile):
            raise InvalidOptions("The part 'image' must be a file.")
        images.append(await part.read())
    return images
