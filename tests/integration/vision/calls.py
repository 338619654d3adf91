"""One call to a drawing route, and what comes back."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import httpx
from PIL import Image


def post(client: httpx.Client, path: str, image: bytes, **options: Any) -> httpx.Response:
    return client.post(path, files={"image": ("x", image)}, data={"options": json.dumps(options)})


def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The problem document of a refused request, which must be the expected one."""
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["code"]) == (status, code), document
    assert response.headers["content-type"] == "application/problem+json"
    assert document["request_id"]
    return document


def image_of(answer: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(answer["image_b64"])))
