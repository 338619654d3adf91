"""Processes of engines: started, watched, brought up again, ended with everything they spawned."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from services.model.engines import launch
from services.model.engines.base import EngineOverloaded, EngineStartFailed, EngineState, EngineUnavailable
from services.model.engines.supervised import RestartPolicy, get_text
from tests.unit.model.engines_scripted import QUICK, ScriptedProcessEngine


def state_of(engine: ScriptedProcessEngine) -> str:
    """The state, as text that the type checker does not follow."""
    return str(engine.state)


def children() -> set[psutil.Process]:
    """Every process below this one; other tests keep some."""
    return set(psutil.Process().children(recursive=True))


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Wait for a condition, or fail."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_killed_process_is_brought_up_again(tmp_path: Path) -> None:
    engine = ScriptedProcessEngine(tmp_path)
    await engine.start()
    first = engine.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: engine.restarts == 1)
    assert engine.state is EngineState.READY
    assert engine.pid != first
    _, body = await get_text(engine.client, "/")
    assert int(body) == engine.pid
    await engine.close()
    assert state_of(engine) == "stopped"
    assert engine.pid is None


async def test_a_process_that_no_longer_answers_is_replaced(tmp_path: Path) -> None:
    engine = ScriptedProcessEngine(tmp_path)
    await engine.start()
    first = engine.pid
    (tmp_path / "silent").touch()
    await until(lambda: engine.state is EngineState.RESTARTING)
    assert engine.reason == "the process no longer answers"
    with pytest.raises(EngineUnavailable) as refusal, engine.lease():
        pass
    assert refusal.value.retry_after >= 1
    (tmp_path / "silent").unlink()
    await until(lambda: engine.state is EngineState.READY)
    assert engine.pid != first
    await engine.close()


async def test_an_engine_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken").touch()
    engine = ScriptedProcessEngine(tmp_path)
    with pytest.raises(EngineStartFailed) as failure:
        await engine.start()
    assert "it ended with status 3. ValueError: the weights are broken" in str(failure.value)
    assert engine.state is EngineState.FAILED
    assert engine.pid is None


async def test_after_some_tries_it_is_given_up(tmp_path: Path) -> None:
    engine = ScriptedProcessEngine(tmp_path)
    await engine.start()
    (tmp_path / "broken").touch()
    assert engine.pid is not None
    os.kill(engine.pid, signal.SIGKILL)
    await until(lambda: engine.state is EngineState.FAILED)
    assert engine.reason is not None
    assert "the weights are broken" in engine.reason
    await engine.close()


async def test_an_engine_that_never_gets_ready_is_ended(tmp_path: Path) -> None:
    (tmp_path / "silent").touch()
    others = children()
    engine = ScriptedProcessEngine(tmp_path, RestartPolicy(ready_within=0.6))
    with pytest.raises(EngineStartFailed, match=r"not ready within 0\.6 s"):
        await engine.start()
    assert children() <= others


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "silent").touch()
    others = children()
    engine = ScriptedProcessEngine(tmp_path)
    starting = asyncio.create_task(engine.start())
    await until(lambda: engine.pid is not None)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert engine.state is EngineState.STOPPED
    assert children() <= others


async def test_a_full_engine_refuses_and_a_drained_one_waits(tmp_path: Path) -> None:
    engine = ScriptedProcessEngine(tmp_path)
    await engine.start()
    with engine.lease(), engine.lease():
        with pytest.raises(EngineOverloaded), engine.lease():
            pass
        draining = asyncio.create_task(engine.drain(5))
        await asyncio.sleep(0.1)
        assert engine.state is EngineState.DRAINING
        assert not draining.done()
        with pytest.raises(EngineUnavailable), engine.lease():
            pass
    await asyncio.wait_for(draining, 3)
    assert state_of(engine) == "stopped"


def test_backoff_grows_to_its_bound() -> None:
    policy = RestartPolicy(first=0.5, longest=8.0)
    for failures, expected in ((1, 0.5), (2, 1.0), (3, 2.0), (5, 8.0), (50, 8.0)):
        assert 0.8 * expected <= policy.delay(failures) <= 1.2 * expected
    assert QUICK.delay(1) < 0.05


def test_the_launcher_ends_the_whole_group_when_its_parent_is_killed() -> None:
    """A parent starts the launcher, that a command, that a worker that ignores SIGTERM."""
    worker = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    command = (
        f"import subprocess,sys,time; subprocess.Popen([sys.executable,'-c',{worker!r}]); time.sleep(60)"
    )
    parent_code = (
        "import subprocess,sys,time;"
        f"subprocess.Popen([sys.executable,'-P',{launch.__file__!r},sys.executable,'-c',{command!r}],"
        "start_new_session=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", parent_code])
    deadline = time.monotonic() + 10
    while len(below := psutil.Process(parent.pid).children(recursive=True)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.3)  # The worker sets its handler.
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(below, timeout=launch.GRACE_SECONDS + 5)
    assert not alive


def test_the_launcher_passes_on_the_status() -> None:
    command = [sys.executable, "-P", str(launch.__file__), sys.executable, "-c", "raise SystemExit(7)"]
    assert subprocess.run(command, start_new_session=True, check=False).returncode == 7
