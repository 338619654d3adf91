"""A suite with one of everything in it, so that generated requests reach more than `not found`.

Knows which path parameter and which field of a body may name something that exists, and how to make
requests affordable for a machine without a GPU. It knows nothing of schemathesis.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image

READY_SECONDS = 90.0
SPARE_ENGINE = {"kind": "upstream", "base_url": "http://127.0.0.1:9/v1", "models": ["spare"], "probe": False}
COSTLY = ("fast", "standard", "thorough")
ORDERS_SQL = "SELECT COUNT(*) FROM orders"
ORDERS = b"id,customer,total\n1,ann,10\n2,bob,25\n3,ann,7\n"


@dataclass(frozen=True)
class Inhabited:
    """What there is: values of path parameters, and of fields of bodies."""

    parameters: Mapping[str, str]
    fields: Mapping[str, Any]

    def lead(self, path_parameters: Mapping[str, Any] | None) -> dict[str, Any]:
        """The same parameters, leading to things that exist."""
        return {name: self.parameters.get(name, value) for name, value in (path_parameters or {}).items()}

    def fill(self, body: object) -> object:
        """The same body, naming things that exist."""
        if not isinstance(body, dict):
            return body
        return {name: self.fields.get(name, value) for name, value in body.items()}


def affordable(body: object) -> object:
    """The same body without what would fill the machine: answers stay short, engines do not start.

    Loading a model with the context and slots a generator thinks of takes all memory there is.
    """
    if not isinstance(body, dict):
        return body
    bounded = dict(body)
    for name, most in (("max_tokens", 4), ("max_completion_tokens", 4), ("n", 2), ("best_of", 2)):
        if isinstance(bounded.get(name), int):
            bounded[name] = min(bounded[name], most)
    if "messages" in bounded or "prompt" in bounded:
        bounded.setdefault("max_tokens", 4)
    if "kind" in bounded and isinstance(bounded.get("parameters"), dict):
        bounded["parameters"] = {"steps": 1, "step_seconds": 0.01}
    if "question" in bounded and bounded.get("profile", "standard") in COSTLY:
        bounded["profile"] = "direct"
    spec = bounded.get("spec")
    if isinstance(spec, dict) and spec.get("kind") in ("llamacpp", "vllm", "encoder"):
        bounded["spec"] = {**spec, "path": "/nonexistent/model"}
    return bounded


def inhabit(client: httpx.Client) -> Inhabited:
    """Make one of everything."""
    key = created(client.post("/v1/keys", json={"name": "spare", "scopes": ["model"]}))
    budget = created(client.post("/v1/budgets", json={"name": "spare", "usd": "5"}))
    engine = created(client.post("/v1/engines", json={"spec": SPARE_ENGINE}))
    created(client.put("/v1/engines/aliases/spare-alias", json={"engine": engine["id"]}))
    artifact = created(
        client.post(
            "/v1/artifacts",
            params={"name": "spare", "kind": "dataset", "path": "spare.bin"},
            content=b"spare bytes",
        )
    )
    uploaded = client.post(
        "/v1/sql/databases/upload", data={"name": "orders"}, files={"files": ("orders.csv", ORDERS)}
    )
    database = created(uploaded)
    wait_for_job(client, database["job_id"])
    example = {
        "database": database["id"],
        "question": "How many orders?",
        "sql": "SELECT COUNT(*) FROM orders",
    }
    examples = created(client.post("/v1/sql/examples", json={"examples": [example]}))["data"]
    question = {"database": database["id"], "question": "How many orders are there?", "profile": "direct"}
    job = created(client.post("/v1/sql/questions", json={**question, "queue": True}))
    wait_for_job(client, job["id"])
    asked = created(client.get("/v1/sql/questions"))["data"][0]
    item = {"database": database["id"], "question": "How many orders?", "gold": [ORDERS_SQL]}
    evaluation = created(
        client.post("/v1/sql/evaluations", json={"items": [item], "configurations": ["direct"]})
    )
    wait_for_job(client, evaluation["id"])
    parameters = {
        "key_id": key["id"],
        "budget_id": budget["id"],
        "job_id": job["id"],
        "model": "default",
        "name": "spare-alias",
        "engine_id": engine["id"],
        "artifact_id": artifact["id"],
        "path": "spare.bin",
        "database": database["id"],
        "question_id": asked["id"],
        "example_id": examples[0]["id"],
        "evaluation_id": evaluation["id"],
    }
    fields = {
        "model": "default",
        "engine": engine["id"],
        "database": database["id"],
        "profile": "direct",
        "kind": "diagnostics.cpu",
        "examples": [example],
        "budget_id": budget["id"],
        "image_b64": base64.b64encode(picture()).decode(),
        "image": picture(),
    }
    return Inhabited(parameters, fields)


def picture() -> bytes:
    """A small PNG."""
    sink = io.BytesIO()
    Image.new("RGB", (64, 48), (90, 120, 200)).save(sink, "PNG")
    return sink.getvalue()


def created(response: httpx.Response) -> Any:
    """The body of a success."""
    assert response.is_success, response.text
    return response.json()


def wait_for_job(client: httpx.Client, job_id: str) -> None:
    """Until the job has ended, however."""
    deadline = time.monotonic() + READY_SECONDS
    while created(client.get(f"/v1/jobs/{job_id}"))["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, f"{job_id} does not end"
        time.sleep(0.1)
