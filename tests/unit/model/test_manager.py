"""Names and engines: who sees what, and swaps nobody notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from services.model.engines.base import EngineState
from services.model.engines.manager import Alias, EngineBusy, EngineManager, Spec
from services.model.engines.specs import EncoderSpec
from tests.unit.model.engines_scripted import ScriptedEngine


class Factory:
    """Hands out scripted engines by the model their description names."""

    def __init__(self) -> None:
        self.made: list[ScriptedEngine] = []
        self.prepared: dict[str, ScriptedEngine] = {}

    def __call__(self, spec: Spec) -> ScriptedEngine:
        assert isinstance(spec, EncoderSpec)
        engine = self.prepared.pop(spec.model, None) or ScriptedEngine(spec.model)
        self.made.append(engine)
        return engine


def spec(model: str) -> EncoderSpec:
    return EncoderSpec(model=model)


@pytest.fixture
def factory() -> Factory:
    return Factory()


@pytest.fixture
async def manager(factory: Factory) -> AsyncIterator[EngineManager]:
    made = EngineManager(factory, drain_seconds=5)
    yield made
    await made.close()


async def test_names_of_a_tenant_come_before_those_of_the_suite(manager: EngineManager) -> None:
    manager.add("engine_a", spec("small"))
    manager.add("engine_b", spec("private"), tenant="acme")
    manager.set_alias(Alias("default", "engine_a"))
    manager.set_alias(Alias("default", "engine_b", tenant="acme"))
    await manager.wait_started()

    def engine_of(name: str, tenant: str) -> str | None:
        target = manager.resolve(name, tenant)
        return target.managed.id if target else None

    assert engine_of("default", "acme") == "engine_b"
    assert engine_of("default", "other") == "engine_a"
    assert engine_of("private", "other") is None
    assert engine_of("small", "acme") == "engine_a"
    assert manager.get("engine_b", "other") is None
    assert [name for name, _ in manager.model_names("other")] == ["default", "small"]
    assert [name for name, _ in manager.model_names("acme")] == ["default", "private", "small"]


async def test_of_several_engines_the_ready_and_idle_one_serves(
    manager: EngineManager, factory: Factory
) -> None:
    factory.prepared["small"] = slow = ScriptedEngine("small")
    slow.gate.clear()
    manager.add("engine_1", spec("small"))
    for name in ("engine_2", "engine_3"):
        manager.add(name, spec("small"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first = manager.resolve("small", "x")
    assert first is not None
    assert first.managed.id == "engine_2"
    with first.managed.engine.lease():
        second = manager.resolve("small", "x")
        assert second is not None
        assert second.managed.id == "engine_3"
    slow.gate.set()


async def test_a_swap_serves_without_a_gap(manager: EngineManager, factory: Factory) -> None:
    manager.add("engine_a", spec("old"))
    manager.set_alias(Alias("default", "engine_a"))
    await manager.wait_started()
    old = factory.made[0]
    factory.prepared["new"] = fresh = ScriptedEngine("new")
    fresh.gate.clear()
    swapped = asyncio.Event()

    async def on_done() -> None:
        swapped.set()

    manager.swap("engine_a", spec("new"), on_done)
    with pytest.raises(EngineBusy):
        manager.swap("engine_a", spec("new"))
    await asyncio.sleep(0)
    target = manager.resolve("default", "x")
    assert target is not None
    assert target.model == "old"
    with target.managed.engine.lease():
        fresh.gate.set()
        await asyncio.wait_for(swapped.wait(), 2)
        # The old request still runs on the old engine; the next one gets the new engine.
        assert not old.closed
        assert old.state is EngineState.DRAINING
        after = manager.resolve("default", "x")
        assert after is not None
        assert after.model == "new"
        with after.managed.engine.lease():
            pass
    await manager.wait_started()
    assert old.closed
    assert after.managed.generation == 2


async def test_a_swap_that_fails_changes_nothing(manager: EngineManager, factory: Factory) -> None:
    managed = manager.add("engine_a", spec("old"))
    await manager.wait_started()
    factory.prepared["bad"] = ScriptedEngine("bad", fails="no such file")
    manager.swap("engine_a", spec("bad"))
    await manager.wait_started()
    assert managed.engine is factory.made[0]
    assert managed.engine.state is EngineState.READY
    assert (managed.problem, managed.swapping, managed.generation) == ("no such file", False, 1)


async def test_an_engine_unloaded_during_its_swap_leaves_nothing(
    manager: EngineManager, factory: Factory
) -> None:
    manager.add("engine_a", spec("old"))
    manager.set_alias(Alias("default", "engine_a"))
    await manager.wait_started()
    factory.prepared["new"] = fresh = ScriptedEngine("new")
    fresh.gate.clear()
    manager.swap("engine_a", spec("new"))
    await asyncio.sleep(0)
    manager.remove("engine_a")
    fresh.gate.set()
    await manager.wait_started()
    assert fresh.closed
    assert factory.made[0].closed
    assert manager.resolve("default", "x") is None
    assert manager.aliases("x") == []
