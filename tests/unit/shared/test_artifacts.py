"""Content-addressed storage."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.artifacts import ArtifactStore, Manifest, ManifestFile
from shared.problems import NotFound, PayloadTooLarge


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(
        str(tmp_path / "store") if request.param == "folder" else f"memory://{tmp_path.name}"
    )


@given(content=st.binary(max_size=5000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_what_goes_in_comes_out_under_its_hash(store: ArtifactStore, content: bytes) -> None:
    ref = store.put_bytes(content)
    assert ref.sha256 == hashlib.sha256(content).hexdigest()
    assert ref.size == len(content)
    assert store.read(ref.sha256) == content


def test_the_same_bytes_are_stored_once(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    for _ in range(3):
        store.put_bytes(b"again")
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_file_over_the_limit_leaves_nothing(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path))
    with pytest.raises(PayloadTooLarge):
        store.put_file(io.BytesIO(b"x" * 100), limit=99)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


async def test_streams_both_ways(store: ArtifactStore) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for index in range(100):
            yield bytes([index]) * 1000

    ref = await store.put_stream(chunks())
    assert b"".join([piece async for piece in store.stream(ref.sha256)]) == store.read(ref.sha256)
    assert ref.size == 100_000


def test_unknown_and_malformed_names_are_not_found(store: ArtifactStore) -> None:
    for name in ("0" * 64, "../../etc/passwd", "", "G" * 64):
        with pytest.raises(NotFound):
            store.open(name)


def test_delete_forgets_and_may_be_repeated(store: ArtifactStore) -> None:
    ref = store.put_bytes(b"gone")
    store.delete(ref.sha256)
    store.delete(ref.sha256)
    assert not store.exists(ref.sha256)


def test_folders_round_trip(store: ArtifactStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep").mkdir(parents=True)
    (source / "a.txt").write_text("a")
    (source / "deep" / "b.bin").write_bytes(bytes(range(256)))
    ref = store.put_folder(source, kind="checkpoint", metadata={"step": 7})
    manifest = store.get_folder(ref.sha256, tmp_path / "copy")
    assert manifest.metadata == {"step": 7}
    assert (tmp_path / "copy" / "deep" / "b.bin").read_bytes() == bytes(range(256))


def test_a_manifest_cannot_write_outside_its_folder(store: ArtifactStore, tmp_path: Path) -> None:
    content = store.put_bytes(b"evil")
    manifest = Manifest(kind="x", files=[ManifestFile(path="../evil", sha256=content.sha256, size=4)])
    ref = store.put_bytes(manifest.model_dump_json().encode())
    with pytest.raises(ValueError, match="outside"):
        store.get_folder(ref.sha256, tmp_path / "target")
    assert not (tmp_path / "evil").exists()
