"""Whatever the client sends is what the merged OpenAPI document describes, and all of it can be sent.

Every method of every resource is called once with all its arguments; the requests are caught at the
transport and held against the document.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from email.parser import BytesParser
from typing import Any, NamedTuple, get_type_hints

import httpx2
import pytest
from jsonschema import Draft202012Validator

import latticework
from latticework import Client, RetryPolicy, StatusError, _sql, _vision
from shared.jobs.schemas import JobEvent as SentJobEvent
from tests.unit.sdk.suite import document

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
IMAGE = b"\x89PNG"
SPEC = {"kind": "upstream", "base_url": "http://127.0.0.1:9/v1", "models": ["far"]}
DRAW: _vision.DrawOptions = {
    "rows": 6, "cols": 6, "profile": "paper", "image_index": 1, "label_style": "A1", "font_px": 12,
    "radius_px": 2, "color": "auto", "plate": "off", "placement": "auto", "opacity": 0.5, "grid": True,
    "jitter": 0.1, "seed": 1, "no_labels": False, "no_dots": False, "shuffle_labels": False,
    "auto_matrix": True, "background": "white", "frame": 0, "allow_truncated": True,
    "resize": {"max_side": None, "min_side": 40, "target_model_side": 768},
}  # fmt: skip
SCAFFOLD: _vision.ScaffoldOptions = {
    **DRAW, "include_original": True, "output": {"format": "png", "quality": 80, "png_level": 0},
    "prompt": {"question": "?", "mode": "scaffold", "answer_format": "x", "locale": "en", "guidelines": True},
}  # fmt: skip
CROP: _vision.CropOptions = {
    **DRAW, "radius": 2, "mark": "rescaffold", "crop_matrix": {"rows": 3, "cols": 3},
    "output": {"format": "webp"},
}  # fmt: skip
ASK: _vision.AskOptions = {
    "mode": "scaffold", "strategy": "coarse_to_fine", "rows": 6, "cols": 6, "label_style": "(r,c)",
    "answer_format": "x", "locale": "en", "guidelines": True, "max_crops": 1, "crop_radius": 2,
    "crop_mark": "none",
    "levels": [{"rows": 3, "cols": 3}], "background": "white", "allow_truncated": False, "model": "m",
    "model_side": 768, "max_tokens": 100, "temperature": 0, "max_calls": 3, "max_completion_tokens": 100,
}  # fmt: skip

QUESTION: _sql.QuestionOptions = {
    "evidence": "e", "profile": "fast", "model": "m", "models": {"linker": "m"}, "model_profile": "small",
    "form": "frames", "seed": 1, "explain": True,
    "budget": {
        "calls": {"sql": 1}, "prompt_tokens": 1, "completion_tokens": 1, "wall_seconds": 1,
        "sandbox_cpu_seconds": 1,
    },
}  # fmt: skip
SEMANTICS: _sql.Semantics = {
    "descriptions": {"t": "d"}, "synonyms": {"t.c": ["s"]}, "sensitive": ["t.c"], "notes": ["n"],
    "metrics": [{"name": "m", "definition": "d"}],
    "joins": [{"table": "t", "columns": ["c"], "referred_table": "u", "referred_columns": ["d"]}],
}  # fmt: skip

CALLS: dict[str, Callable[[Client], object]] = {
    "GET /v1/models": lambda c: c.models.list(),
    "GET /v1/models/{model}": lambda c: c.models.get("a/b"),
    "POST /v1/chat/completions": lambda c: c.chat.complete("?", system="x", temperature=0, max_tokens=5),
    "GET /v1/engines": lambda c: c.engines.list(page_size=5).first(),
    "POST /v1/engines": lambda c: c.engines.load(SPEC, shared=True),
    "GET /v1/engines/{engine_id}": lambda c: c.engines.get("e"),
    "DELETE /v1/engines/{engine_id}": lambda c: c.engines.unload("e"),
    "POST /v1/engines/{engine_id}/swap": lambda c: c.engines.swap("e", SPEC),
    "GET /v1/engines/aliases": lambda c: c.engines.aliases.list().first(),
    "PUT /v1/engines/aliases/{name}": lambda c: c.engines.aliases.set("a", "e", model="m", shared=False),
    "DELETE /v1/engines/aliases/{name}": lambda c: c.engines.aliases.remove("a", shared=False),
    "GET /v1/artifacts": lambda c: c.artifacts.list(kind="report", page_size=5).first(),
    "POST /v1/artifacts": lambda c: c.artifacts.upload(b"x", kind="report", name="n", path="p", metadata={}),
    "GET /v1/artifacts/{artifact_id}": lambda c: c.artifacts.get("a"),
    "DELETE /v1/artifacts/{artifact_id}": lambda c: c.artifacts.delete("a"),
    "GET /v1/artifacts/{artifact_id}/files/{path}": lambda c: c.artifacts.read("a", "b/c"),
    "PUT /v1/artifacts/{artifact_id}/files/{path}": lambda c: c.artifacts.put_file("a", b"x", path="b/c"),
    "GET /v1/keys": lambda c: c.keys.list(page_size=5).first(),
    "POST /v1/keys": lambda c: c.keys.create(
        "n", ["model"], expires_at=NOON, requests_per_minute=1, tokens_per_minute=1, usd="1.5", tokens=5,
        period="day", tenant_class="standard",
    ),
    "GET /v1/keys/{key_id}": lambda c: c.keys.get("k"),
    "DELETE /v1/keys/{key_id}": lambda c: c.keys.revoke("k"),
    "POST /v1/keys/{key_id}/rotate": lambda c: c.keys.rotate("k", overlap_seconds=5),
    "GET /v1/budgets": lambda c: c.budgets.list(page_size=5).first(),
    "POST /v1/budgets": lambda c: c.budgets.create("n", usd=1, tokens=5, period="month"),
    "GET /v1/budgets/{budget_id}": lambda c: c.budgets.get("b"),
    "PATCH /v1/budgets/{budget_id}": lambda c: c.budgets.change("b", name="n", usd="2", tokens=None),
    "GET /v1/usage": lambda c: c.usage.list(
        group_by=["day", "key"], first=date(2030, 1, 1), last=date(2030, 1, 2), key_id="k", service="s",
        model="m", page_size=5,
    ).first(),
    "GET /v1/prices": lambda c: c.usage.prices(),
    "GET /v1/jobs": lambda c: c.jobs.list(state=["queued"], kind="k", page_size=5).first(),
    "POST /v1/jobs": lambda c: c.jobs.submit(
        "k", {}, priority=1, not_before=NOON, deadline=NOON, depends_on=["j"], timeout=5
    ),
    "GET /v1/jobs/kinds": lambda c: c.jobs.kinds().first(),
    "GET /v1/jobs/{job_id}": lambda c: c.jobs.get("j"),
    "POST /v1/jobs/{job_id}/cancel": lambda c: c.jobs.cancel("j"),
    "POST /v1/jobs/{job_id}/retry": lambda c: c.jobs.retry("j"),
    "GET /v1/jobs/{job_id}/events": lambda c: next(c.jobs.events("j", after=3)),
    "GET /v1/sql/databases": lambda c: c.sql.databases.list(page_size=5).first(),
    "POST /v1/sql/databases": lambda c: c.sql.databases.register(
        "n", "sqlite://", description="d", semantics=SEMANTICS
    ),
    "POST /v1/sql/databases/upload": lambda c: c.sql.databases.upload("n", [b"x", b"y"], description="d"),
    "GET /v1/sql/databases/{database}": lambda c: c.sql.databases.get("d"),
    "DELETE /v1/sql/databases/{database}": lambda c: c.sql.databases.remove("d"),
    "POST /v1/sql/databases/{database}/refresh": lambda c: c.sql.databases.refresh("d"),
    "GET /v1/sql/databases/{database}/schema": lambda c: c.sql.databases.schema("d"),
    "GET /v1/sql/databases/{database}/semantics": lambda c: c.sql.databases.semantics("d"),
    "PUT /v1/sql/databases/{database}/semantics": lambda c: c.sql.databases.describe("d", SEMANTICS),
    "GET /v1/sql/databases/{database}/grants": lambda c: c.sql.databases.grants("d"),
    "PUT /v1/sql/databases/{database}/grants": lambda c: c.sql.databases.grant("d", "*", tables=["t"]),
    "DELETE /v1/sql/databases/{database}/grants/{tenant}": lambda c: c.sql.databases.take_back("d", "t"),
    "GET /v1/sql/questions": lambda c: c.sql.questions.list(database="d", page_size=5).first(),
    "POST /v1/sql/questions": lambda c: c.sql.questions.submit("d", "?", **QUESTION),
    "GET /v1/sql/questions/{question_id}": lambda c: c.sql.questions.get("q"),
    "GET /v1/sql/questions/{question_id}/rows": lambda c: c.sql.questions.download("q", "x"),
    "GET /v1/sql/questions/{question_id}/trace": lambda c: c.sql.questions.trace("q"),
    "POST /v1/sql/questions/{question_id}/feedback": lambda c: c.sql.questions.judge(
        "q", "correct", sql="SELECT 1", comment="c"
    ),
    "GET /v1/sql/examples": lambda c: c.sql.examples.list(database="d", page_size=5).first(),
    "POST /v1/sql/examples": lambda c: c.sql.examples.add([{"database": "d", "question": "?", "sql": "s"}]),
    "DELETE /v1/sql/examples/{example_id}": lambda c: c.sql.examples.remove("e"),
    "GET /v1/sql/evaluations": lambda c: c.sql.evaluations.list(page_size=5).first(),
    "POST /v1/sql/evaluations": lambda c: c.sql.evaluations.start(
        [{"database": "d", "question": "?", "gold": ["s"], "evidence": "e", "difficulty": "hard"}], name="n",
        configurations=["direct"], model="m", model_profile="small", timing_iterations=1, seed=1,
    ),
    "GET /v1/sql/evaluations/{evaluation_id}": lambda c: c.sql.evaluations.get("e"),
    "GET /v1/sql/evaluations/{evaluation_id}/report": lambda c: c.sql.evaluations.report("e", format="png"),
    "POST /v1/vision/scaffold": lambda c: c.vision.scaffold(IMAGE, **SCAFFOLD),
    "POST /v1/vision/sequence": lambda c: c.vision.sequence([IMAGE, IMAGE], **SCAFFOLD),
    "POST /v1/vision/crop": lambda c: c.vision.crop(IMAGE, center=(2, 3), **CROP),
    "POST /v1/vision/legibility": lambda c: c.vision.legibility(IMAGE, **DRAW),
    "POST /v1/vision/ask": lambda c: next(c.vision.look(IMAGE, "?", **ASK)),
    "POST /v1/vision/prompt": lambda c: c.vision.prompt(
        "?", rows=6, cols=6, mode="sequence", label_style="(r,c)", images=2, answer_format="x", locale="en",
        guidelines=False, image_urls=["u", "v"],
    ),
    "POST /v1/vision/resolve": lambda c: c.vision.resolve(
        "(1,2)", points=[(3, 4)], original=True, rows=6, cols=6, label_style="(r,c)", images=1, image_index=1,
        size=(640, 480), transform=((1, 0, 0), (0, 1, 0)),
    ),
    "GET /v1/vision/capabilities": lambda c: c.vision.capabilities(),
}  # fmt: skip

BY_THE_STOCK_CLIENT = {"POST /v1/completions", "POST /v1/embeddings"}
"""`client.openai` sends these."""


class Operation(NamedTuple):
    """One operation of the document."""

    name: str
    pattern: re.Pattern[str]
    described: dict[str, Any]


def operations() -> Iterator[Operation]:
    for path, item in document()["paths"].items():
        template = path.replace("{path}", "{path:path}") if path.endswith("/files/{path}") else path
        pattern = re.escape(template).replace(r"\{path:path\}", ".+")
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", pattern)
        for method, described in item.items():
            if path.startswith("/v1/"):
                yield Operation(f"{method.upper()} {path}", re.compile(pattern), described)


def sent_by(call: Callable[[Client], object]) -> httpx2.Request:
    caught: list[httpx2.Request] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        request.read()
        caught.append(request)
        return httpx2.Response(418)

    with Client(
        "http://suite", "lw_x", retries=RetryPolicy(0), transport=httpx2.MockTransport(refuse)
    ) as client:
        with pytest.raises(StatusError):
            call(client)
    (request,) = caught
    return request


@pytest.mark.parametrize("name", CALLS)
def test_call_is_described(name: str) -> None:
    operation = next((one for one in operations() if one.name == name), None)
    assert operation is not None, f"the suite has no {name}"
    request = sent_by(CALLS[name])
    assert request.method == name.partition(" ")[0]
    assert operation.pattern.fullmatch(request.url.raw_path.decode().partition("?")[0])
    check_parameters(request, operation)
    check_body(request, operation)


def check_parameters(request: httpx2.Request, operation: Operation) -> None:
    parameters = operation.described.get("parameters", [])
    known = {one["name"].lower() for one in parameters if one["in"] == "header"}
    assert {"idempotency-key"} & set(request.headers) <= known
    check_names(
        operation, {one["name"] for one in parameters if one["in"] == "query"}, set(request.url.params)
    )


def check_body(request: httpx2.Request, operation: Operation) -> None:
    described = operation.described.get("requestBody")
    if described is None:
        assert request.content == b""
        return
    media_type = request.headers["content-type"].partition(";")[0]
    schema = described["content"][media_type]["schema"]
    if media_type == "application/json":
        check_json(operation, schema, json.loads(request.content))
    elif media_type == "multipart/form-data":
        parts = parts_of(request)
        check_names(operation, set(properties(schema)), set(parts))
        if "options" in parts:
            in_json = described["content"]["application/json"]["schema"]["properties"]["options"]
            check_json(operation, in_json, json.loads(parts["options"]))


def check_json(operation: Operation, schema: dict[str, Any], data: dict[str, Any]) -> None:
    Draft202012Validator({**schema, "components": document()["components"]}).validate(data)
    if operation.name not in PASSED_ON:
        check_names(operation, set(properties(schema)), set(data))


def check_names(operation: Operation, known: set[str], sent: set[str]) -> None:
    assert sent <= known, f"the suite does not know {sent - known}"
    missing = known - sent - IMPLIED - LEFT_OUT.get(operation.name, set())
    assert not missing, f"the client cannot send {missing}"


IMPLIED = {"cursor", "after", "sha256"}
"""Sent while paging and resuming; checked by the client itself."""
LEFT_OUT = {
    "POST /v1/keys": {"budget_id"},
    "POST /v1/vision/crop": {"points"},
    "POST /v1/sql/questions": {"stream"},
    "GET /v1/sql/questions/{question_id}/rows": {"limit"},
}
"""Alternatives of what the calls above send."""
PASSED_ON = {"POST /v1/chat/completions"}
"""Further options are passed on as they are given."""


def properties(schema: dict[str, Any]) -> dict[str, Any]:
    while "properties" not in schema:
        if "$ref" in schema:
            schema = document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        else:
            schema = next(one for one in schema["anyOf"] if one.get("type") != "null")
    found: dict[str, Any] = schema["properties"]
    return found


def parts_of(request: httpx2.Request) -> dict[str, bytes]:
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    message = BytesParser().parsebytes(head + request.content)
    parts: dict[str, bytes] = {}
    for part in message.get_payload():
        assert not isinstance(part, str)
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        parts[str(name)] = content
    return parts


def test_events_of_jobs_are_what_the_queue_sends() -> None:
    """OpenAPI does not describe events, so this model is written by hand."""
    assert {name: field.annotation for name, field in latticework.JobEvent.model_fields.items()} == {
        name: field.annotation for name, field in SentJobEvent.model_fields.items()
    }


def test_nothing_of_the_suite_is_out_of_reach() -> None:
    """A new operation fails this test until the client can call it."""
    offered = {one.name for one in operations()}
    assert offered - set(CALLS) - BY_THE_STOCK_CLIENT == set()


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (_vision.DrawOptions, DRAW),
        (_vision.ScaffoldOptions, SCAFFOLD),
        (_vision.CropOptions, CROP),
        (_vision.AskOptions, ASK),
        (_sql.QuestionOptions, QUESTION),
        (_sql.Semantics, SEMANTICS),
    ],
)
def test_calls_above_use_every_option(options: type, sent: dict[str, Any]) -> None:
    assert set(get_type_hints(options)) == set(sent)
