"""The supervisor with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from deploy import supervisor as module
from deploy.redis_server import answers, start_redis
from deploy.supervisor import Probe, ProcessSpec, StartFailed, Supervisor

ROOT = Path(__file__).parents[3]


def script(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def file_probe(path: Path) -> Probe:
    async def probe() -> str | None:
        return None if path.exists() else f"{path.name} is missing"

    return probe


class Lines:
    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def __call__(self, name: str, line: str) -> None:
        self.all.append((name, line))

    def of(self, name: str) -> list[str]:
        return [line for who, line in self.all if who == name]


async def eventually(condition: object, seconds: float = 20.0) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def test_order_output_and_clean_stop(tmp_path: Path) -> None:
    lines, order = Lines(), []
    mark = tmp_path / "up"
    specs = [
        ProcessSpec(
            "first",
            script(
                "import time,pathlib; print('hello', flush=True); time.sleep(.3); "
                f"pathlib.Path({str(mark)!r}).touch(); time.sleep(60)"
            ),
            probe=file_probe(mark),
        ),
        ProcessSpec(
            "second",
            script(
                f"import os,time; print('needed', os.path.exists({str(mark)!r}), flush=True); time.sleep(60)"
            ),
            after=("first",),
        ),
    ]
    supervisor = Supervisor(specs, lines)
    await supervisor.start(lambda name, seconds: order.append(name))
    pids = supervisor.pids
    await eventually(lambda: lines.of("second") == ["needed True"])
    await supervisor.stop()
    assert order == ["first", "second"]
    assert lines.of("first") == ["hello"]
    assert not [pid for pid in pids.values() if alive(pid)]


async def test_a_crash_is_restarted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.05)
    lines = Lines()
    supervisor = Supervisor([ProcessSpec("service", script("import time; time.sleep(60)"))], lines)
    await supervisor.start(lambda name, seconds: None)
    first = supervisor.pids["service"]
    os.kill(first, signal.SIGKILL)
    await eventually(lambda: supervisor.pids.get("service", first) != first)
    assert any("signal SIGKILL" in line for line in lines.of("suite"))
    await supervisor.stop()


async def test_wrong_settings_end_the_start_with_their_words() -> None:
    spec = ProcessSpec(
        "service",
        script("import sys; print('LATTICEWORK_X is not set.'); sys.exit(2)"),
        probe=file_probe(Path("/nonexistent")),
    )
    supervisor = Supervisor([spec], Lines())
    with pytest.raises(StartFailed, match="LATTICEWORK_X is not set"):
        await supervisor.start(lambda name, seconds: None)
    await supervisor.stop()


async def test_a_service_that_is_never_ready_is_named() -> None:
    spec = ProcessSpec(
        "slow",
        script("import time; time.sleep(60)"),
        probe=file_probe(Path("/nonexistent")),
        start_seconds=0.5,
    )
    supervisor = Supervisor([spec], Lines())
    with pytest.raises(StartFailed, match="nonexistent is missing"):
        await supervisor.start(lambda name, seconds: None)
    await supervisor.stop()


async def test_who_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    child_file = tmp_path / "child"
    code = (
        "import signal,subprocess,sys,time,pathlib\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(child_file)!r}).write_text(str(child.pid))\n"
        "time.sleep(60)\n"
    )
    supervisor = Supervisor([ProcessSpec("stubborn", script(code), stop_seconds=0.3)], Lines())
    await supervisor.start(lambda name, seconds: None)
    await eventually(lambda: child_file.exists() and child_file.read_text() != "")
    pids = [supervisor.pids["stubborn"], int(child_file.read_text())]
    await supervisor.stop()
    await eventually(lambda: not any(alive(pid) for pid in pids))


def test_a_killed_supervisor_leaves_no_orphan(tmp_path: Path) -> None:
    code = (
        "import asyncio,sys\n"
        "from deploy.supervisor import ProcessSpec, Supervisor\n"
        "async def main():\n"
        "    sleep = [sys.executable, '-c', 'import time; time.sleep(60)']\n"
        "    s = Supervisor([ProcessSpec('s', sleep)], lambda n, t: None)\n"
        "    await s.start(lambda n, t: None)\n"
        "    while not s.pids: await asyncio.sleep(.01)\n"
        "    print(s.pids['s'], flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    with subprocess.Popen(script(code), stdout=subprocess.PIPE, cwd=ROOT) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    deadline = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.02)


def test_the_private_redis_keeps_its_data_and_its_password(tmp_path: Path) -> None:
    import redis

    server = start_redis(tmp_path)
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
    without_password = "redis://" + server.url.rpartition("@")[2]
    assert not answers(without_password)
    server.stop()
    again = start_redis(tmp_path)
    try:
        with redis.Redis.from_url(again.url) as client:
            assert client.get("kept") == b"yes"
    finally:
        again.stop()
