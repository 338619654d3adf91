"""All engines of the service, and the names under which clients find them.

An engine belongs to one tenant, or to the whole suite (`tenant` None). Swapping starts the new engine
first, moves every name over in one step of the event loop, and only then drains the old one: no
request finds nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from structlog.contextvars import unbind_contextvars

from services.model.engines.base import Engine, EngineStartFailed, EngineState
from services.model.engines.specs import EncoderSpec, LlamaCppSpec, UpstreamSpec, VllmSpec
from shared.database import utc_now
from shared.problems import Conflict
from shared.telemetry import logger

log = logger(__name__)

Spec = LlamaCppSpec | VllmSpec | UpstreamSpec | EncoderSpec
EngineFactory = Callable[[Spec], Engine]


class EngineBusy(Conflict):
    code, title = "engine_busy", "The engine is being changed already"


@dataclass
class ManagedEngine:
    """One engine under its id. `problem` says why the last swap failed."""

    id: str
    spec: Spec
    engine: Engine
    tenant: str | None = None
    created_at: datetime = field(default_factory=utc_now)
    generation: int = 1
    swapping: bool = False
    problem: str | None = None

    def visible_to(self, tenant: str) -> bool:
        """Whether a caller of `tenant` may use it."""
        return self.tenant is None or self.tenant == tenant


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for a model of an engine; without `model` it is the engine's first."""

    name: str
    engine_id: str
    model: str | None = None
    tenant: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a name leads: the engine, and its own name for the model."""

    managed: ManagedEngine
    model: str


class EngineManager:
    """Starts, swaps and stops engines made by `factory`."""

    def __init__(self, factory: EngineFactory, *, drain_seconds: float) -> None:
        self._factory = factory
        self._drain_seconds = drain_seconds
        self._engines: dict[str, ManagedEngine] = {}
        self._aliases: dict[tuple[str | None, str], Alias] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def add(
        self, engine_id: str, spec: Spec, *, tenant: str | None = None, created_at: datetime | None = None
    ) -> ManagedEngine:
        """Put an engine on the list and start it in the background."""
        managed = ManagedEngine(engine_id, spec, self._factory(spec), tenant, created_at or utc_now())
        managed.engine.state = EngineState.STARTING
        self._engines[engine_id] = managed
        self._spawn(self._start(managed))
        return managed

    def get(self, engine_id: str, tenant: str) -> ManagedEngine | None:
        """The engine, if `tenant` may see it."""
        managed = self._engines.get(engine_id)
        return managed if managed is not None and managed.visible_to(tenant) else None

    def visible(self, tenant: str) -> list[ManagedEngine]:
        """Engines a caller of `tenant` may use, newest id first."""
        found = [managed for managed in self._engines.values() if managed.visible_to(tenant)]
        return sorted(found, key=lambda managed: managed.id, reverse=True)

    def engines(self) -> Mapping[str, Engine]:
        """All running engines by id."""
        return {managed.id: managed.engine for managed in self._engines.values()}

    def swap(
        self, engine_id: str, spec: Spec, on_done: Callable[[], Awaitable[None]] | None = None
    ) -> ManagedEngine:
        """Replace the engine behind `engine_id` in the background; `on_done` runs once it serves.

        Raises:
            EngineBusy: a swap is running.
        """
        managed = self._engines[engine_id]
        if managed.swapping:
            raise EngineBusy("A swap of this engine is still running.", retry_after=2.0)
        managed.swapping, managed.problem = True, None
        self._spawn(self._swap(managed, spec, on_done))
        return managed

    def remove(self, engine_id: str) -> None:
        """Take an engine and its aliases off the list; it drains in the background."""
        managed = self._engines.pop(engine_id)
        for key in [key for key, alias in self._aliases.items() if alias.engine_id == engine_id]:
            del self._aliases[key]
        self._spawn(managed.engine.drain(self._drain_seconds))

    def set_alias(self, alias: Alias) -> None:
        """Let a name lead to an engine."""
        self._aliases[alias.tenant, alias.name] = alias

    def remove_alias(self, name: str, tenant: str | None) -> bool:
        """Forget a name; False when there was none."""
        return self._aliases.pop((tenant, name), None) is not None

    def aliases(self, tenant: str) -> list[Alias]:
        """Names a caller of `tenant` may use; its own hide those of the suite."""
        found = {alias.name: alias for alias in self._aliases.values() if alias.tenant is None}
        found |= {alias.name: alias for alias in self._aliases.values() if alias.tenant == tenant}
        return [found[name] for name in sorted(found) if self.get(found[name].engine_id, tenant)]

    def resolve(self, name: str, tenant: str) -> Target | None:
        """Where `name` leads for a caller of `tenant`: its own names before the suite's, aliases first."""
        alias = self._aliases.get((tenant, name)) or self._aliases.get((None, name))
        if alias is not None:
            managed = self.get(alias.engine_id, tenant)
            if managed is not None:
                return Target(managed, self._model_of(alias, managed))
        candidates = [item for item in self._engines.values() if item.visible_to(tenant)]
        candidates = [item for item in candidates if name in item.engine.models]
        if not candidates:
            return None
        # Several engines may serve one model: its owner's first, then one that is ready, then the idlest.
        best = min(
            candidates,
            key=lambda item: (
                item.tenant is None,
                item.engine.state is not EngineState.READY,
                item.engine.in_flight,
            ),
        )
        return Target(best, name)

    def model_names(self, tenant: str) -> Iterator[tuple[str, ManagedEngine]]:
        """Every name `tenant` can ask for, aliases first, each once, with its engine."""
        seen: set[str] = set()
        for alias in self.aliases(tenant):
            seen.add(alias.name)
            yield alias.name, self._engines[alias.engine_id]
        for managed in self.visible(tenant):
            for model in managed.engine.models:
                if model not in seen:
                    seen.add(model)
                    yield model, managed

    async def wait_started(self) -> None:
        """Wait for everything that is being started, swapped or drained at this moment."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def close(self) -> None:
        """Stop everything."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(managed.engine.close() for managed in self._engines.values()))

    @staticmethod
    def _model_of(alias: Alias, managed: ManagedEngine) -> str:
        models = managed.engine.models
        return alias.model if alias.model in models and alias.model is not None else models[0]

    async def _start(self, managed: ManagedEngine) -> None:
        engine = managed.engine
        try:
            await engine.start()
        except EngineStartFailed as error:
            managed.problem = str(error)
            log.error("engine not started", engine=managed.id, kind=engine.kind, reason=str(error))
        else:
            log.info("engine started", engine=managed.id, kind=engine.kind, models=list(engine.models))

    async def _swap(
        self, managed: ManagedEngine, spec: Spec, on_done: Callable[[], Awaitable[None]] | None
    ) -> None:
        fresh = self._factory(spec)
        try:
            await fresh.start()
        except EngineStartFailed as error:
            managed.problem = str(error)
            log.error("engine not swapped", engine=managed.id, reason=str(error))
            return
        except BaseException:
            await fresh.close()
            raise
        finally:
            managed.swapping = False
        if self._engines.get(managed.id) is not managed:
            await fresh.close()  # Unloaded in the meantime.
            return
        old, managed.engine, managed.spec = managed.engine, fresh, spec
        managed.generation += 1
        log.info("engine swapped", engine=managed.id, generation=managed.generation)
        if on_done is not None:
            await on_done()
        await old.drain(self._drain_seconds)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(_apart_from_the_request(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _apart_from_the_request(work: Coroutine[Any, Any, None]) -> None:
    """What an engine logs for the rest of its life is not about the request that started it."""
    unbind_contextvars("request_id")
    await work
