"""Answers out: JSON or image bytes by `Accept`, entity tags, metadata in a header."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import orjson
from fastapi import Request, Response
from pydantic import BaseModel

from services.vision.imaging import MEDIA_TYPES, OutputFormat
from services.vision.scaffold import TEMPLATE_VERSION
from shared.problems import NotAcceptable

METADATA_HEADER = "Scaffold-Metadata"
DRAWING_VERSION = "3"
"""Raise it when the same options draw other pixels: it is part of every entity tag."""
_FORMATS: dict[str, OutputFormat] = {media: form for form, media in MEDIA_TYPES.items()}


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """What the bytes of an answer depend on."""
    libraries = {name: version(name) for name in ("pillow", "simplejpeg", "fpng", "pyspng")}
    return {"drawing": DRAWING_VERSION, "templates": TEMPLATE_VERSION, **libraries}


def wanted_format(accept: str, default: OutputFormat, *, images: bool = True) -> OutputFormat | None:
    """The image format to answer with, None for JSON; the better quality wins, then JSON.

    Raises NotAcceptable where neither JSON nor (`images`) an image will do.
    """
    best: tuple[float, int] | None = None
    chosen: OutputFormat | None = None
    for part in accept.split(",") if accept.strip() else ["*/*"]:
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = _quality(parameters)
        if name in ("*/*", "application/json", "application/*"):
            rank, form = (quality, 1), None
        elif images and (name in _FORMATS or name == "image/*"):
            rank, form = (quality, 0), _FORMATS.get(name, default)
        else:
            continue
        if quality > 0 and (best is None or rank > best):
            best, chosen = rank, form
    if best is None:
        offered = ["application/json", *(MEDIA_TYPES.values() if images else ())]
        raise NotAcceptable(f"This can be answered as {', '.join(offered)}.")
    return chosen


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return min(1.0, max(0.0, float(parameter[2:])))
            except ValueError:
                return 0.0
    return 1.0


async def entity_tag(images: Sequence[bytes], options: BaseModel, form: OutputFormat | None) -> str:
    """Hash of everything the answer depends on."""

    def digest() -> str:
        hashed = hashlib.sha256(orjson.dumps([versions(), form, len(images)]))
        hashed.update(options.model_dump_json().encode())
        for data in images:
            hashed.update(len(data).to_bytes(8, "big"))
            hashed.update(data)
        return f'"{hashed.hexdigest()[:32]}"'

    return await asyncio.to_thread(digest)


def not_modified(request: Request, tag: str) -> Response | None:
    """304 where the client has this answer already."""
    known = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=_headers(tag))
    return None


def _headers(tag: str) -> dict[str, str]:
    return {"ETag": tag, "Vary": "Accept", "Cache-Control": "private"}


def image_answer(data: bytes, form: OutputFormat, facts: Mapping[str, Any], tag: str) -> Response:
    """The bytes of the image, its facts but for the list of dots in a header."""
    metadata = {name: value for name, value in facts.items() if name not in ("dots", "t")}
    headers = {**_headers(tag), METADATA_HEADER: orjson.dumps(metadata).decode()}
    return Response(data, media_type=MEDIA_TYPES[form], headers=headers)


async def json_answer(content: Any, tag: str | None = None) -> Response:
    """JSON; bytes in it become base64 on the way."""
    body = await asyncio.to_thread(orjson.dumps, content, default=_encode_bytes)
    return Response(body, media_type="application/json", headers=_headers(tag) if tag else None)


def _encode_bytes(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    raise TypeError(type(value).__name__)


def inline_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a model without references, for bodies that FastAPI does not parse."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, list):
            return [resolve(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            target = definitions[node["$ref"].rpartition("/")[2]]
            return resolve({**target, **{k: v for k, v in node.items() if k != "$ref"}})
        return {name: resolve(value) for name, value in node.items()}

    resolved: dict[str, Any] = resolve(schema)
    return resolved


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that takes JSON."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": inline_schema(model)}},
        }
    }


def image_body(model: type[BaseModel], *, many: bool = False) -> dict[str, Any]:
    """`openapi_extra` of a route that takes an image in JSON, multipart or as the body itself."""
    body = json_body(model)
    part: dict[str, Any] = {"type": "string", "format": "binary"}
    content = body["requestBody"]["content"]
    content["multipart/form-data"] = {
        "schema": {
            "type": "object",
            "required": ["image"],
            "properties": {
                "image": {"type": "array", "items": part} if many else part,
                "options": {"type": "string", "description": "the options as JSON"},
            },
        }
    }
    return body


def binary_answers() -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of the image formats a route may answer with."""
    content = {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()}
    return {
        200: {"content": content, "description": "JSON, or the image itself by `Accept`"},
        304: {"description": "The client's copy is current"},
    }
