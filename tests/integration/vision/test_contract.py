"""Answers have exactly the fields that the published description promises."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from services.vision.engine import Engine
from services.vision.routes.ask import AskAnswer
from services.vision.routes.words import PromptWithMessages, ResolveAnswer
from services.vision.schemas import (
    Capabilities,
    CropAnswer,
    LegibilityAnswer,
    ScaffoldAnswer,
    SequenceAnswer,
)
from tests.integration.vision.conftest import token
from tests.unit.vision.images import picture, save

PNG = save(picture(), "PNG")


def files(**options: Any) -> dict[str, Any]:
    return {"files": {"image": PNG}, "data": {"options": json.dumps(options)}}


CASES: list[tuple[str, dict[str, Any], type[BaseModel]]] = [
    ("/scaffold", files(prompt={"question": "?"}), ScaffoldAnswer),
    ("/scaffold", files(include_original=True), ScaffoldAnswer),
    ("/sequence", files(prompt={"question": "?"}), SequenceAnswer),
    ("/crop", files(center={"row": 2, "col": 2}), CropAnswer),
    ("/crop", files(center={"row": 2, "col": 2}, mark="none"), CropAnswer),
    ("/prompt", {"json": {"question": "?"}}, PromptWithMessages),
    (
        "/resolve",
        {"json": {"text": "(1,1) to (2,2)", "size": [70, 70], "points": [{"x": 1, "y": 2}]}},
        ResolveAnswer,
    ),
    ("/ask", files(question="?"), AskAnswer),
]


def assert_exact(answer: dict[str, Any], model: type[BaseModel]) -> None:
    """Every field is described, and every described field without a default is there."""
    described = set(model.model_fields)
    required = {name for name, field in model.model_fields.items() if field.is_required()}
    assert set(answer) <= described, set(answer) - described
    assert required <= set(answer), required - set(answer)
    model.model_validate(answer)


@pytest.mark.parametrize(("path", "request_parts", "model"), CASES)
def test_answers_fit_their_description(
    client: httpx.Client, path: str, request_parts: dict[str, Any], model: type[BaseModel]
) -> None:
    answer = client.post(path, **request_parts).json()
    assert_exact(answer, model)
    for image in answer.get("images", []) if model is SequenceAnswer else []:
        assert_exact(image, ScaffoldAnswer)


def test_capabilities_fit_their_description(client: httpx.Client) -> None:
    assert_exact(client.get("/capabilities").json(), Capabilities)


@pytest.mark.skipif(not Engine.has_ocr(), reason="needs the extra `ocr`")
def test_legibility_fits_its_description(client: httpx.Client) -> None:
    assert_exact(client.post("/legibility", **files(rows=1, cols=1)).json(), LegibilityAnswer)


def test_the_description_names_bodies_answers_and_problems(vision_url: str) -> None:
    headers = {"Authorization": f"Bearer {token()}"}
    document = httpx.get(f"{vision_url}/openapi.json", headers=headers).json()
    paths = {path for path in document["paths"] if path.startswith("/v1/vision/")}
    names = ("scaffold", "sequence", "crop", "legibility", "prompt", "resolve", "ask", "capabilities")
    assert paths == {f"/v1/vision/{name}" for name in names}
    scaffold = document["paths"]["/v1/vision/scaffold"]["post"]
    assert set(scaffold["requestBody"]["content"]) == {"application/json", "multipart/form-data"}
    assert {"400", "406", "413", "415", "422", "503", "504"} <= set(scaffold["responses"])
    assert "image/webp" in scaffold["responses"]["200"]["content"]
    body = json.dumps(scaffold["requestBody"])
    assert '"$ref"' not in body
    assert "target_model_side" in body
