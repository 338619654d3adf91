"""Tables on SQLite and PostgreSQL, and a service that finds its engines again."""

from __future__ import annotations

from pathlib import Path

from prometheus_client import CollectorRegistry

from services.model import store
from services.model.engines.manager import Alias
from services.model.engines.specs import EncoderSpec
from services.model.service import PACKAGE, ModelService
from services.model.settings import ConfiguredEngine, ModelSettings
from services.model.store import ArtifactFileRow, ArtifactRow
from shared.database import Database, migrate, schema_drift
from shared.settings import load_settings
from tests.conftest import SECRET
from tests.unit.model.tiny_encoder import tiny_encoder


async def test_tables_and_models_agree(database_url: str) -> None:
    await migrate(database_url, PACKAGE)
    assert await schema_drift(database_url, PACKAGE) == []


async def test_artifacts_are_bounded_by_tenant_and_counted_by_content(database_url: str) -> None:
    await migrate(database_url, PACKAGE)
    database = Database(database_url)
    blob, manifests = "a" * 64, {"one": "b" * 64, "two": "c" * 64}
    async with database.session() as session:
        for tenant, manifest in manifests.items():
            row = ArtifactRow(
                id=f"artifact_{tenant}", tenant=tenant, name="n", kind="adapter", size=1,
                manifest_sha256=manifest, details={},
            )  # fmt: skip
            file = ArtifactFileRow(artifact_id=row.id, path="data", sha256=blob, size=1)
            await store.add_artifact(session, row, [file])
    async with database.session() as session:
        assert await store.find_artifact(session, "artifact_two", "one") is None
        mine = await store.find_artifact(session, "artifact_one", "one")
        assert mine is not None
        digests = await store.remove_artifact(session, mine)
        assert digests == {blob, manifests["one"]}
        assert await store.unused(session, digests) == [manifests["one"]]
    async with database.reading() as session:
        rows, _ = await store.list_artifacts(session, "one", kind=None, cursor=None, limit=10)
        assert list(rows) == []
    await database.close()


async def test_a_restart_keeps_what_was_loaded_and_named(tmp_path: Path, database_url: str) -> None:
    spec = EncoderSpec(model="configured", path=tiny_encoder(tmp_path / "encoder").folder, threads=1)
    settings = load_settings(
        ModelSettings,
        home=tmp_path,
        principal_secret=SECRET,
        database_url=database_url,
        model_engines=(ConfiguredEngine(id="engine_embed", spec=spec, aliases=("embed",)),),
    )
    service = ModelService(settings, CollectorRegistry())
    async with service.running():
        assert await service.not_ready() is not None
        await service.manager.wait_started()
        assert await service.not_ready() is None
        swapped = spec.model_copy(update={"model": "swapped"}).model_dump(mode="json")
        private = spec.model_copy(update={"model": "private"}).model_dump(mode="json")
        async with service.database.session() as session:
            await store.save_engine(session, "engine_embed", store.SUITE, swapped)
            await store.save_engine(session, "engine_x", "acme", private)
            await store.save_alias(session, "mine", "acme", "engine_x", None)
    again = ModelService(settings, CollectorRegistry())
    async with again.running():
        target = again.manager.resolve("embed", "anyone")
        assert target is not None
        assert target.model == "swapped"
        mine = again.manager.resolve("mine", "acme")
        assert mine is not None
        assert mine.managed.tenant == "acme"
        assert again.manager.resolve("mine", "anyone") is None
        assert again.manager.aliases("acme") == [
            Alias("embed", "engine_embed"),
            Alias("mine", "engine_x", None, "acme"),
        ]
        async with again.database.session() as session:
            await store.forget_engine(session, "engine_x", "acme")
        async with again.database.reading() as session:
            assert [row.id for row in await store.all_engines(session)] == ["engine_embed"]
            assert list(await store.all_aliases(session)) == []
