"""Runs processes, watches them, restarts them, stops them: what `make run` and nothing else needs.

A process gets its own session and dies with us, so neither Ctrl-C nor a SIGKILL of this process
leaves an orphan. One that ends by itself is started again after a growing pause; one that says its
settings are wrong (exit status 2), or that never becomes ready, ends the whole start with its words.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.redis_server import die_with_parent

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
STEADY_SECONDS = 60.0
PROBE_INTERVAL = 0.1
EXIT_WRONG_SETTINGS = 2
STARTS_BEFORE_GIVING_UP = 5

Probe = Callable[[], Awaitable[str | None]]
"""Returns None when the process can do its work, else a short reason."""
LineSink = Callable[[str, str], None]
"""Takes the name of a process and one line of its output."""


class StartFailed(Exception):
    """A process did not come up; the message says which, and repeats its last words."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """What to run. `after` names processes that must be ready before this one is started."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    probe: Probe | None = None
    after: Sequence[str] = ()
    stop_seconds: float = 20.0
    start_seconds: float = 120.0


class Watched:
    """One process over its restarts."""

    def __init__(self, spec: ProcessSpec, sink: LineSink, on_spawn: Callable[[], None]) -> None:
        self.spec = spec
        self._on_spawn = on_spawn
        self.ready = asyncio.Event()
        self.restarts = 0
        self.failure: str | None = None
        self._sink = sink
        self._last_words: deque[str] = deque(maxlen=8)
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """Process id of the present incarnation."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def run(self) -> None:
        """Keep the process running until `stop`; returns early only with `failure` set."""
        pause = FIRST_PAUSE
        while not self._stopping:
            started = time.monotonic()
            status = await self._run_once()
            if self._stopping:
                return
            was_ready = self.ready.is_set()
            self.ready.clear()
            self.restarts += 1
            if not was_ready and (status == EXIT_WRONG_SETTINGS or self.restarts >= STARTS_BEFORE_GIVING_UP):
                self.failure = "\n".join(self._last_words) or f"it ended with status {status}"
                return
            if time.monotonic() - started > STEADY_SECONDS:
                pause = FIRST_PAUSE
            self._sink(
                "suite", f"{self.spec.name} ended ({_describe(status)}); starting it again in {pause:g} s"
            )
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _run_once(self) -> int:
        self._process = await asyncio.create_subprocess_exec(
            *self.spec.command,
            env={**os.environ, **self.spec.environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
            limit=1 << 20,
        )
        self._on_spawn()
        probe = asyncio.create_task(self._probe())
        try:
            await self._pump(self._process)
            return await self._process.wait()
        finally:
            probe.cancel()

    async def _pump(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._last_words.append(text)
            self._sink(self.spec.name, text)

    async def _probe(self) -> None:
        if self.spec.probe is None:
            self.ready.set()
            return
        while await self.spec.probe() is not None:  # noqa: ASYNC110 - another process has no Event
            await asyncio.sleep(PROBE_INTERVAL)
        self.ready.set()

    async def stop(self) -> None:
        """SIGTERM, the time it asked for, then SIGKILL of its whole session."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self.spec.stop_seconds)
        except TimeoutError:
            self._sink("suite", f"{self.spec.name} did not stop within {self.spec.stop_seconds:g} s; killed")
        self.kill()

    def kill(self) -> None:
        """SIGKILL of the process and everything it started in its session."""
        self._stopping = True
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _describe(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


class Supervisor:
    """All processes of the suite, started in the order of their needs."""

    def __init__(self, specs: Sequence[ProcessSpec], sink: LineSink) -> None:
        self.on_change: Callable[[], None] = lambda: None
        """Called after a process was started, also again; `pids` is up to date then."""
        self.watched = {spec.name: Watched(spec, sink, lambda: self.on_change()) for spec in specs}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, of what is running."""
        return {name: watched.pid for name, watched in self.watched.items() if watched.pid is not None}

    async def start(self, on_ready: Callable[[str, float], None]) -> None:
        """Start everything; returns when all are ready. `on_ready` gets each name and its seconds.

        Raises:
            StartFailed: a process gave up, or was not ready within its `start_seconds`.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for name in self.watched:
                    group.create_task(self._start_one(name, on_ready))
        except* StartFailed as failures:
            raise failures.exceptions[0] from None

    async def _start_one(self, name: str, on_ready: Callable[[str, float], None]) -> None:
        watched = self.watched[name]
        for need in watched.spec.after:
            await self.watched[need].ready.wait()
        started = time.monotonic()
        running = self._tasks[name] = asyncio.create_task(watched.run())
        ready = asyncio.create_task(watched.ready.wait())
        await asyncio.wait(
            {running, ready}, timeout=watched.spec.start_seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if not ready.done():
            ready.cancel()
            reason = watched.failure or await self._why_not_ready(watched)
            raise StartFailed(f"{name} did not start:\n{reason}")
        on_ready(name, time.monotonic() - started)

    async def _why_not_ready(self, watched: Watched) -> str:
        reason = await watched.spec.probe() if watched.spec.probe else None
        return f"not ready after {watched.spec.start_seconds:g} s: {reason or 'no reason given'}"

    async def stop(self) -> None:
        """Stop everything, those that need others first."""
        remaining = list(self.watched)
        while remaining:
            needed = {need for name in remaining for need in self.watched[name].spec.after}
            wave = [name for name in remaining if name not in needed] or remaining
            await asyncio.gather(*(self.watched[name].stop() for name in wave))
            remaining = [name for name in remaining if name not in wave]
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def kill(self) -> None:
        """Everything at once, without grace."""
        for watched in self.watched.values():
            watched.kill()
