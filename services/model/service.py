"""The parts of a running model service, and what happens to them at its start and its stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from fastapi import Request
from prometheus_client import CollectorRegistry

from services.model import store
from services.model.engines.base import Engine, EngineState
from services.model.engines.encoder import EncoderEngine
from services.model.engines.llamacpp import LlamaCppEngine
from services.model.engines.manager import Alias, EngineManager, Spec
from services.model.engines.specs import EncoderSpec, LlamaCppSpec, UpstreamSpec, VllmSpec, spec_adapter
from services.model.engines.upstream import UpstreamEngine
from services.model.engines.vllm import VllmEngine
from services.model.metrics import EngineMetrics, ModelMetrics
from services.model.settings import ModelSettings
from shared.artifacts import ArtifactStore
from shared.database import Database, migrate
from shared.idempotency import Idempotency
from shared.telemetry import logger

log = logger(__name__)

PACKAGE = "services.model"


def owner(tenant: str | None) -> str:
    """The tenant column of something that belongs to `tenant`, or to the whole suite."""
    return store.SUITE if tenant is None else tenant


@dataclass
class ModelService:
    """Everything the routes need."""

    settings: ModelSettings
    registry: CollectorRegistry
    manager: EngineManager = field(init=False)
    database: Database = field(init=False)
    idempotency: Idempotency = field(init=False)
    artifacts: ArtifactStore = field(init=False)
    metrics: ModelMetrics = field(init=False)
    engine_metrics: EngineMetrics = field(init=False)
    #: Held while a reference to a blob is made or the last one is dropped.
    artifact_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.manager = EngineManager(self.make_engine, drain_seconds=self.settings.drain_seconds)
        self.metrics = ModelMetrics(self.registry)
        self.engine_metrics = EngineMetrics(self.manager.engines)
        self.registry.register(self.engine_metrics)

    def make_engine(self, spec: Spec) -> Engine:
        """An engine for its description, not yet started."""
        settings = self.settings
        threads = settings.model_threads
        match spec:
            case LlamaCppSpec():
                known = spec if spec.threads else spec.model_copy(update={"threads": threads})
                return LlamaCppEngine(known, queue=settings.model_queue)
            case VllmSpec():
                return VllmEngine(spec, settings.model_vllm_python)
            case UpstreamSpec():
                return UpstreamEngine(spec)
            case EncoderSpec():
                known_encoder = spec if spec.threads else spec.model_copy(update={"threads": threads})
                cache = settings.home.resolve() / "model" / "encoders"
                return EncoderEngine(known_encoder, cache, limit=settings.model_queue + 8)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The service with its database and its engines; engines start in the background."""
        url = self.settings.resolved_database_url()
        await migrate(url, PACKAGE)
        self.database = Database(url)
        self.idempotency = Idempotency(self.database, store.idempotency)
        # A folder of its own: blobs nothing refers to here are removed, and others keep theirs elsewhere.
        registry_url = self.settings.resolved_artifacts_url().rstrip("/") + "/registry"
        self.artifacts = await asyncio.to_thread(ArtifactStore, registry_url)
        await self._load_engines()
        reading = asyncio.create_task(self.engine_metrics.keep_reading())
        try:
            yield
        finally:
            reading.cancel()
            await self.manager.close()
            await self.database.close()

    async def _load_engines(self) -> None:
        """What was made through the API wins over what is configured under the same id or name."""
        async with self.database.reading() as session:
            engines = await store.all_engines(session)
            aliases = await store.all_aliases(session)
        stored = {row.id: row for row in engines}
        for configured in self.settings.model_engines:
            replaced = stored.pop(configured.id, None)
            spec = spec_adapter.validate_python(replaced.spec) if replaced else configured.spec
            self.manager.add(configured.id, spec)
            for name in configured.aliases:
                self.manager.set_alias(Alias(name, configured.id))
        for row in stored.values():
            tenant = None if row.tenant == store.SUITE else row.tenant
            self.manager.add(
                row.id, spec_adapter.validate_python(row.spec), tenant=tenant, created_at=row.created_at
            )
        for alias in aliases:
            tenant = None if alias.tenant == store.SUITE else alias.tenant
            self.manager.set_alias(Alias(alias.name, alias.engine_id, alias.model, tenant))

    async def not_ready(self) -> str | None:
        """Readiness: which required alias has no running engine, and why."""
        for name in self.settings.model_required:
            target = self.manager.resolve(name, store.SUITE)
            if target is None:
                continue
            engine = target.managed.engine
            if engine.state is not EngineState.READY:
                return f"the engine behind '{name}' is {engine.state}: {engine.reason or 'please wait'}"
        return None


def service_of(request: Request) -> ModelService:
    """FastAPI dependency: the service this request came to."""
    service: ModelService = request.app.state.model
    return service
