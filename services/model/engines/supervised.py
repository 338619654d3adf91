"""An engine that is a process: started, watched, restarted with backoff, stopped with all it spawned.

Subclasses say what to run and how to see that it is ready. This module knows processes and nothing
of models.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
from abc import abstractmethod
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.model.engines.base import EngineStartFailed, EngineState, ProxiedEngine
from shared.telemetry import logger
from shared.upstream import HttpUpstream, Request, Timeouts, Upstream, UpstreamError, UpstreamLimits

log = logger(__name__)

PROBE_TIMEOUTS = Timeouts(connect=1.0, pool=1.0, write=2.0, read=5.0, first_byte=5.0)
#: A prompt of a full context on a slow machine takes minutes before its first byte.
CALL_TIMEOUTS = Timeouts(connect=2.0, pool=1.0, write=30.0, read=600.0, first_byte=600.0)


_EXCEPTION = re.compile(r"\b[A-Z]\w*(Error|Exception): ")


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Seconds. After `attempts` failures in a row without `settled` seconds of health it gives up."""

    first: float = 0.25
    longest: float = 30.0
    attempts: int = 6
    settled: float = 30.0
    ready_within: float = 120.0
    probe_every: float = 2.0
    probes_missed: int = 5

    def delay(self, failures: int) -> float:
        """Exponential backoff with jitter."""
        return min(self.longest, self.first * 2.0 ** (failures - 1)) * random.uniform(0.8, 1.2)


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run. `stdin` goes to the process at once; `base_url` is where it will listen."""

    command: Sequence[str]
    base_url: str
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: bytes = b""


class SupervisedEngine(ProxiedEngine):
    """Runs one process and keeps it running."""

    log_lines = 400

    def __init__(self, *, limit: int, policy: RestartPolicy | None = None) -> None:
        super().__init__(limit=limit)
        self.policy = policy or RestartPolicy()
        self._process: Process | None = None
        self._client: HttpUpstream | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._log: deque[str] = deque(maxlen=self.log_lines)
        self._next_try = 0.0
        self._base_url = ""

    @abstractmethod
    def prepare(self) -> Launch:
        """What to run this time; called before every start, so that ports and secrets are fresh."""

    @abstractmethod
    async def answers(self, client: Upstream) -> bool:
        """Whether the process behind `client` is ready for requests."""

    async def on_ready(self, client: Upstream) -> None:
        """Learn what the engine says of itself; called at each start before it takes requests."""

    @property
    def client(self) -> Upstream:
        assert self._client is not None, "an engine has no client before it is ready"
        return self._client

    @property
    def base_url(self) -> str:
        """Where the process listens, or listened last."""
        return self._base_url

    @property
    def pid(self) -> int | None:
        """The process, while one runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def log_tail(self) -> list[str]:
        """The last lines the process wrote."""
        return list(self._log)

    @property
    def retry_after(self) -> float:
        if self.state is EngineState.RESTARTING:
            return max(1.0, self._next_try - asyncio.get_running_loop().time() + 2.0)
        return 5.0

    async def start(self) -> None:
        self.state, self.reason = EngineState.STARTING, None
        try:
            await self._bring_up()
        except EngineStartFailed as error:
            self.state, self.reason = EngineState.FAILED, str(error)
            raise
        except BaseException:
            await self._tear_down()
            self.state = EngineState.STOPPED
            raise
        self._keeper = asyncio.create_task(self._keep_running())

    async def close(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        await self._tear_down()
        self.state = EngineState.STOPPED

    async def _keep_running(self) -> None:
        """Wait for the end of the process or its silence; bring it up again until told to stop."""
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            since = loop.time()
            why = await self._watch()
            if self.state is EngineState.DRAINING:
                return
            failures = 1 if loop.time() - since > self.policy.settled else failures + 1
            while not await self._try_again(why, failures):
                why, failures = self.reason or why, failures + 1
                if failures > self.policy.attempts:
                    self.state = EngineState.FAILED
                    log.error("engine given up", engine=self.kind, models=list(self.models), reason=why)
                    return

    async def _try_again(self, why: str, failures: int) -> bool:
        delay = self.policy.delay(failures)
        self._next_try = asyncio.get_running_loop().time() + delay
        self.state, self.reason = EngineState.RESTARTING, why
        log.warning("engine down, restarting", engine=self.kind, reason=why, delay=round(delay, 2))
        await self._tear_down()
        await asyncio.sleep(delay)
        try:
            await self._bring_up()
        except EngineStartFailed as error:
            self.reason = str(error)
            return False
        self.restarts += 1
        return True

    async def _bring_up(self) -> None:
        launch = self.prepare()
        self._base_url = launch.base_url
        self._log.clear()
        process = await asyncio.create_subprocess_exec(
            *launch.command,
            stdin=PIPE if launch.stdin else DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env={**os.environ, **launch.environment},
            start_new_session=True,
        )
        self._process = process
        self._reader = asyncio.create_task(self._read_log(process))
        if process.stdin is not None:
            with contextlib.suppress(ConnectionError):
                process.stdin.write(launch.stdin)
                await process.stdin.drain()
            process.stdin.close()
        probe = HttpUpstream(launch.base_url, timeouts=PROBE_TIMEOUTS, breaker=None)
        try:
            async with asyncio.timeout(self.policy.ready_within):
                await self._until_ready(process, probe)
                await self.on_ready(probe)
        except TimeoutError:
            await self._fail(f"not ready within {self.policy.ready_within:g} s")
        except UpstreamError as error:
            await self._fail(str(error))
        finally:
            await probe.close()
        self._client = HttpUpstream(
            launch.base_url,
            timeouts=CALL_TIMEOUTS,
            limits=UpstreamLimits(max_concurrency=self.limit + 8),
            breaker=None,
        )
        self.state, self.reason = EngineState.READY, None

    async def _until_ready(self, process: Process, probe: Upstream) -> None:
        pause = 0.02
        while not await self._is_up(probe):
            if process.returncode is not None:
                await self._reader
                await self._fail(f"it ended with status {process.returncode}")
            await asyncio.sleep(pause)
            pause = min(0.25, pause * 1.3)

    async def _is_up(self, client: Upstream) -> bool:
        try:
            return await self.answers(client)
        except UpstreamError:
            return False

    async def _fail(self, why: str) -> None:
        await self._tear_down()
        raise EngineStartFailed(f"The {self.kind} engine did not start: {why}. {self._last_words()}".strip())

    def _last_words(self) -> str:
        """What the log says of the cause: the first exceptions named in it, else its last lines."""
        lines = list(self._log)
        named = list(dict.fromkeys(line for line in lines if _EXCEPTION.search(line)))
        failed = [line for line in lines if "error" in line.lower() or "failed" in line]
        return " / ".join(named[:2] or (failed or lines)[-3:])[:1000]

    async def _watch(self) -> str:
        """Return, with the reason, when the process has ended or no longer answers."""
        process = self._process
        assert process is not None
        ended = asyncio.create_task(process.wait())
        probe = HttpUpstream(self._base_url, timeouts=PROBE_TIMEOUTS, breaker=None)
        missed = 0
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=self.policy.probe_every)
                if ended.done():
                    break
                missed = 0 if await self._is_up(probe) else missed + 1
                if missed >= self.policy.probes_missed:
                    return "the process no longer answers"
            return f"the process ended with status {process.returncode}"
        finally:
            ended.cancel()
            await probe.close()

    async def _tear_down(self) -> None:
        """End the process with everything in its group, and every request to it."""
        client, self._client = self._client, None
        process, self._process = self._process, None
        if process is not None:
            # The leader may have ended before its workers: signal the group, not the process.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.stop_seconds if process.returncode is None else 0):
                    await process.wait()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            # A process that left the group may still hold the pipe.
            await asyncio.wait({self._reader}, timeout=1.0)
            self._reader.cancel()
        if client is not None:
            await client.close()

    #: Seconds between asking the process to end and killing it.
    stop_seconds = 8.0

    async def _read_log(self, process: Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                line = await process.stdout.readline()
            except ValueError:  # longer than the reader's buffer: dropped, and on with the next
                continue
            if not line:
                return
            text = line.decode(errors="replace").rstrip()
            self._log.append(text)
            log.debug("engine says", engine=self.kind, line=text)


async def get_text(
    client: Upstream, path: str, headers: Sequence[tuple[bytes, bytes]] = ()
) -> tuple[int, bytes]:
    """Status and body (at most 4 MB) of a small GET."""
    response = await client.open(Request("GET", path, headers=headers, replayable=True))
    try:
        return response.status, await response.read_all(4 << 20)
    finally:
        response.close()
