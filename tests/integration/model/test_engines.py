"""Engines and aliases through the API: load, look, unload; who may do what; what a restart keeps."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pytest

from services.model.engines.encoder import packaged_encoder
from tests.integration.model.conftest import RunningService

VLLM: dict[str, Any] = {"kind": "vllm", "model": "m", "path": "/nonexistent/model"}
ENCODER: dict[str, Any] = {"kind": "encoder", "model": "second-encoder", "path": str(packaged_encoder())}


def load(admin: httpx.Client, **fields: Any) -> dict[str, Any]:
    """Load an engine and wait until it is ready."""
    answer = admin.post("/v1/engines", json={"spec": ENCODER} | fields)
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/v1/engines/{answer.json()['id']}"
    for _ in range(200):
        body: dict[str, Any] = admin.get(answer.headers["location"]).json()
        if body["state"] != "starting":
            return body
        time.sleep(0.05)
    raise AssertionError("still starting")


def test_the_life_of_an_engine(service: RunningService, admin: httpx.Client) -> None:
    body = load(admin)
    assert (body["state"], body["capabilities"]["dimensions"]) == ("ready", 384)
    path = f"/v1/engines/{body['id']}"
    alias = {"engine": body["id"], "model": "second-encoder"}
    assert admin.put("/v1/engines/aliases/second", json=alias).status_code == 200
    names = [item["name"] for item in admin.get("/v1/engines/aliases").json()["data"]]
    assert names == ["default", "embed", "second"]
    with service.http() as http:
        for model in ("second", "second-encoder"):
            assert http.post("/v1/embeddings", json={"model": model, "input": "x"}).status_code == 200
        assert admin.delete(path).status_code == 204
        assert admin.get(path).status_code == 404
        gone = http.post("/v1/embeddings", json={"model": "second", "input": "x"})
        assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")


def test_an_engine_of_a_tenant_is_nobody_elses(service: RunningService, admin: httpx.Client) -> None:
    private = load(admin, shared=False, spec=ENCODER | {"model": "private-encoder"})
    path = f"/v1/engines/{private['id']}"
    with service.http("rival", "admin") as rival:
        assert rival.get(path).status_code == 404
        assert rival.delete(path).status_code == 404
        assert rival.post(f"{path}/swap", json={"spec": ENCODER}).status_code == 404
        assert rival.put("/v1/engines/aliases/mine", json={"engine": private["id"]}).status_code == 404
        assert private["id"] not in rival.get("/v1/engines").text
        assert "private-encoder" not in rival.get("/v1/models").text
        asked = rival.post("/v1/embeddings", json={"model": "private-encoder", "input": "x"})
        assert asked.status_code == 404
    with service.http("acme") as mine:
        asked = mine.post("/v1/embeddings", json={"model": "private-encoder", "input": "x"})
        assert asked.status_code == 200
    shared = admin.put("/v1/engines/aliases/leak", json={"engine": private["id"], "shared": True})
    assert shared.status_code == 422
    assert admin.delete(path).status_code == 204


def test_an_idempotency_key_loads_once(admin: httpx.Client) -> None:
    def post(key: str, spec: dict[str, Any]) -> httpx.Response:
        return admin.post("/v1/engines", json={"spec": spec}, headers={"Idempotency-Key": key})

    first, again = post("once", ENCODER), post("once", ENCODER)
    assert first.json()["id"] == again.json()["id"]
    other = post("once", ENCODER | {"model": "other"})
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert admin.delete(f"/v1/engines/{first.json()['id']}").status_code == 204


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/engines", {"spec": {"kind": "torch", "model": "m"}}, 422),
        ("POST", "/v1/engines", {"spec": ENCODER, "surprise": 1}, 422),
        ("POST", "/v1/engines", {"spec": VLLM | {"arguments": ["--seed", "1\0"]}}, 422),
        ("POST", "/v1/engines", {"spec": VLLM | {"path": "a\0b"}}, 422),
        ("POST", "/v1/engines", {"spec": VLLM | {"context_length": 1 << 67}}, 422),
        ("POST", "/v1/engines/nothing/swap", {"spec": ENCODER}, 404),
        ("GET", "/v1/engines/nothing", None, 404),
        ("GET", "/v1/engines?cursor=_w", None, 400),
        ("GET", "/v1/engines?limit=0", None, 422),
        ("DELETE", "/v1/engines/nothing", None, 404),
        ("DELETE", "/v1/engines/aliases/nothing", None, 404),
        ("PUT", "/v1/engines/aliases/x", {"engine": "nothing"}, 404),
        ("PUT", "/v1/engines/aliases/x", {"engine": "engine_embed", "model": "nothing"}, 422),
        ("PUT", "/v1/engines/aliases/a%20b", {"engine": "engine_embed"}, 422),
    ],
)
def test_what_cannot_be_done_is_a_problem(
    admin: httpx.Client, method: str, path: str, body: Any, status: int
) -> None:
    answer = admin.request(method, path, json=body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["status"] == status


def test_engines_are_for_administrators(service: RunningService) -> None:
    with service.http("acme", "model") as user:
        for method, path in (
            ("GET", "/v1/engines"),
            ("GET", "/v1/engines/aliases"),
            ("DELETE", "/v1/engines/x"),
        ):
            assert user.request(method, path).status_code == 403


def test_pages_of_engines(admin: httpx.Client) -> None:
    seen, cursor = [], None
    while True:
        page = admin.get("/v1/engines", params={"limit": 1} | ({"cursor": cursor} if cursor else {})).json()
        seen += [item["id"] for item in page["data"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == sorted(seen, reverse=True)
    assert {"engine_default", "engine_embed", "engine_hosted"} <= set(seen)


def test_an_engine_that_does_not_start_says_why(admin: httpx.Client) -> None:
    body = load(admin, spec=ENCODER | {"path": "/no/such/folder"})
    assert body["state"] == "failed"
    assert "has no config.json" in body["reason"]
    assert admin.delete(f"/v1/engines/{body['id']}").status_code == 204


def test_the_description_covers_every_path(admin: httpx.Client) -> None:
    paths = admin.get("/openapi.json").json()["paths"]
    for path in (
        "/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models", "/v1/engines",
        "/v1/engines/{engine_id}/swap", "/v1/engines/aliases/{name}", "/v1/artifacts",
    ):  # fmt: skip
        assert path in paths
    body = paths["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/ChatRequest"}
