"""The client's model side against the real model service, without engines of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import latticework
from latticework import AsyncClient, Client
from services.model.app import create_app
from services.model.settings import ModelSettings
from shared.principal import Principal, PrincipalSigner
from shared.settings import load_settings
from tests.conftest import SECRET
from tests.integration.sdk.server import serving

UPSTREAM = {"kind": "upstream", "base_url": "http://127.0.0.1:9/v1", "models": ["far"], "probe": False}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("model")
    settings = load_settings(ModelSettings, principal_secret=SECRET, home=home, model_engines=())
    with serving(create_app(settings), lifespan="on") as url:
        yield url


@pytest.fixture
def token(request: pytest.FixtureRequest) -> str:
    """What the gateway would send; every test is a tenant of its own."""
    tenant = f"tenant-{request.node.name}"
    principal = Principal("key_1", tenant, frozenset({"admin"}))
    return PrincipalSigner(SECRET).sign(principal, audience="model")


@pytest.fixture
def model(address: str, token: str) -> Iterator[Client]:
    with Client(address, token) as client:
        yield client


def test_file_comes_back_as_it_went(model: Client, tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    source = tmp_path / "weights.bin"
    source.write_bytes(content)
    artifact = model.artifacts.upload(source, kind="checkpoint", name="first", metadata={"step": 7})
    assert (artifact.name, artifact.kind, artifact.size) == ("first", "checkpoint", len(content))
    assert artifact.metadata == {"step": 7}
    assert artifact.files[0].sha256 == hashlib.sha256(content).hexdigest()
    artifact = model.artifacts.put_file(artifact.id, b"{}", path="deep/config.json")
    assert {file.path for file in artifact.files} == {"weights.bin", "deep/config.json"}
    assert model.artifacts.read(artifact.id, "deep/config.json") == b"{}"
    target = model.artifacts.download(artifact.id, "weights.bin", tmp_path / "back.bin")
    assert target.read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"weights.bin", "back.bin"}
    assert model.artifacts.get(artifact.id) == artifact
    model.artifacts.delete(artifact.id)
    with pytest.raises(latticework.NotFound) as caught:
        model.artifacts.get(artifact.id)
    assert caught.value.code == "artifact_not_found"


def test_broken_download_leaves_no_file(model: Client, tmp_path: Path) -> None:
    artifact = model.artifacts.upload(b"x", kind="report", name="r", path="a.txt")
    with pytest.raises(latticework.NotFound):
        model.artifacts.download(artifact.id, "b.txt", tmp_path / "b.txt")
    with pytest.raises(latticework.ConfigurationError, match="cannot be written"):
        model.artifacts.download(artifact.id, "a.txt", tmp_path / "nowhere" / "a.txt")
    assert list(tmp_path.iterdir()) == []


def test_same_key_makes_one_artifact(model: Client) -> None:
    first = model.artifacts.upload(b"x", kind="dataset", name="d", path="a", idempotency_key="once")
    second = model.artifacts.upload(b"x", kind="dataset", name="d", path="a", idempotency_key="once")
    assert first.id == second.id
    with pytest.raises(latticework.Conflict):
        model.artifacts.upload(b"y", kind="dataset", name="d", path="a", idempotency_key="once")
    assert [one.id for one in model.artifacts.list()] == [first.id]


def test_lists_are_paged(model: Client) -> None:
    made = [model.artifacts.upload(bytes([n]), kind="report", name=f"n{n}", path="a").id for n in range(5)]
    assert [one.id for one in model.artifacts.list(page_size=2)] == made[::-1]
    assert list(model.artifacts.list(kind="adapter")) == []


def test_ids_cannot_leave_their_place(model: Client) -> None:
    with pytest.raises(latticework.NotFound):
        model.artifacts.get("../engines")
    with pytest.raises(ValueError, match="not an id"):
        model.artifacts.get("..")


def test_engines_and_aliases(model: Client) -> None:
    engine = model.engines.load(UPSTREAM, shared=False)
    assert engine.spec.kind == "upstream"
    assert engine.models == ["far"]
    assert [one.id for one in model.engines.list()] == [engine.id]
    alias = model.engines.aliases.set("mine", engine.id, model="far", shared=False)
    assert (alias.name, alias.engine, alias.model) == ("mine", engine.id, "far")
    assert "mine" in {one.name for one in model.engines.aliases.list()}
    swapped = model.engines.swap(engine.id, {**UPSTREAM, "models": ["far", "farther"]})
    assert swapped.id == engine.id
    model.engines.aliases.remove("mine", shared=False)
    model.engines.unload(engine.id)
    assert list(model.engines.list()) == []


def test_wrong_fields_are_named(model: Client) -> None:
    with pytest.raises(latticework.Unprocessable) as caught:
        model.engines.load({**UPSTREAM, "colour": "red"})
    assert any("colour" in error.location for error in caught.value.errors)


async def test_async_client_is_the_same(address: str, token: str, tmp_path: Path) -> None:
    async with AsyncClient(address, token) as client:
        artifact = await client.artifacts.upload(b"abc" * 1000, kind="report", name="r", path="a.txt")
        target = await client.artifacts.download(artifact.id, "a.txt", tmp_path / "a.txt")
        assert target.read_bytes() == b"abc" * 1000
        assert [one.id async for one in client.artifacts.list()] == [artifact.id]
        assert await client.models.list() == []
