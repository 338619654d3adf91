"""Artifacts: streamed in, bounded, hashed, kept apart by tenant, and gone when they are deleted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.integration.model.conftest import RunningService


@pytest.fixture
def user(service: RunningService) -> Iterator[httpx.Client]:
    with service.http() as made:
        yield made


def upload(user: httpx.Client, content: Any, **query: Any) -> httpx.Response:
    headers = query.pop("headers", {})
    parameters = {"name": "tiny adapter", "kind": "adapter", "path": "adapter.bin"} | query
    return user.post("/v1/artifacts", content=content, params=parameters, headers=headers)


def test_what_goes_in_comes_out(user: httpx.Client) -> None:
    pieces = [os.urandom(300_000) for _ in range(4)]
    content = b"".join(pieces)
    digest = hashlib.sha256(content).hexdigest()
    answer = upload(user, iter(pieces), metadata='{"rank": 8}', sha256=digest)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["files"] == [{"path": "adapter.bin", "sha256": digest, "size": len(content)}]
    assert body["metadata"] == {"rank": 8}
    path = answer.headers["location"]
    download = user.get(f"{path}/files/adapter.bin")
    assert download.content == content
    assert download.headers["etag"] == f'"{digest}"'
    second = user.put(f"{path}/files/config/adapter.json", content=b"{}")
    assert second.status_code == 200, second.text
    assert [file["path"] for file in second.json()["files"]] == ["adapter.bin", "config/adapter.json"]
    assert second.json()["size"] == len(content) + 2
    assert second.json()["manifest_sha256"] != body["manifest_sha256"]
    assert user.get(path).json() == second.json()
    assert body["id"] in [
        item["id"] for item in user.get("/v1/artifacts", params={"kind": "adapter"}).json()["data"]
    ]
    assert user.delete(path).status_code == 204
    assert user.get(path).status_code == 404
    assert user.get(f"{path}/files/adapter.bin").status_code == 404


def test_bytes_are_shared_and_stay_while_one_needs_them(user: httpx.Client) -> None:
    content = os.urandom(1000)
    first, second = (upload(user, content).headers["location"] for _ in range(2))
    assert user.delete(first).status_code == 204
    assert user.get(f"{second}/files/adapter.bin").content == content
    assert user.delete(second).status_code == 204


def test_an_artifact_of_another_tenant_does_not_exist(service: RunningService, user: httpx.Client) -> None:
    path = upload(user, b"secret weights").headers["location"]
    with service.http("rival") as rival:
        for method, target in (
            ("GET", path), ("GET", f"{path}/files/adapter.bin"), ("DELETE", path),
            ("PUT", f"{path}/files/adapter.bin"),
        ):  # fmt: skip
            assert rival.request(method, target).status_code == 404
        assert rival.get("/v1/artifacts").json()["data"] == []
    assert user.get(f"{path}/files/adapter.bin").content == b"secret weights"
    assert user.delete(path).status_code == 204


def test_too_large_is_refused_before_and_while_it_comes(user: httpx.Client) -> None:
    too_much = (8 << 20) + 1
    assert upload(user, b"x" * too_much).status_code == 413
    answer = upload(user, (b"x" * 65536 for _ in range(too_much // 65536 + 2)))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


def test_bytes_that_were_damaged_on_the_way_are_refused(user: httpx.Client) -> None:
    answer = upload(user, b"damaged", sha256=hashlib.sha256(b"whole").hexdigest())
    assert (answer.status_code, answer.json()["code"]) == (422, "digest_mismatch")


@pytest.mark.parametrize(
    "query",
    [
        {"path": "../../etc/passwd"},
        {"path": "/etc/passwd"},
        {"path": "a/../b"},
        {"name": ""},
        {"kind": "virus"},
        {"metadata": "[1]"},
        {"metadata": "{"},
        {"sha256": "abc"},
    ],
)
def test_names_and_paths_are_checked(user: httpx.Client, query: dict[str, str]) -> None:
    assert upload(user, b"x", **query).status_code == 422


def test_an_upload_with_a_key_happens_once(user: httpx.Client) -> None:
    headers = {"Idempotency-Key": "upload-1"}
    first, again = (upload(user, b"once", headers=headers) for _ in range(2))
    assert first.json()["id"] == again.json()["id"]
    assert upload(user, b"twice", headers=headers).status_code == 409
    assert user.delete(first.headers["location"]).status_code == 204


def test_pages_of_artifacts(user: httpx.Client) -> None:
    made = [upload(user, bytes([index]), name=f"n{index}").json()["id"] for index in range(3)]
    page = user.get("/v1/artifacts", params={"limit": 2}).json()
    rest = user.get("/v1/artifacts", params={"limit": 2, "cursor": page["next"]}).json()
    assert [item["id"] for item in page["data"] + rest["data"]] == made[::-1]
    for artifact in made:
        assert user.delete(f"/v1/artifacts/{artifact}").status_code == 204
