"""The worker's handle on the process of a job: start it, talk to it, end it."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.jobs import frames
from shared.jobs.process_tree import kill_below, kill_tree
from shared.jobs.settings import JobSettings

START_SECONDS = 120.0
EXIT_SECONDS = 5.0


class ChildFailedToStart(Exception):
    """The process of a job ended before it was ready; its last words are in the worker's log."""


@dataclass(frozen=True, slots=True)
class ChildOptions:
    """What every process of this worker is told at its start."""

    settings: JobSettings
    pools: Sequence[str]

    def message(self) -> frames.Message:
        """The first message. It carries a secret: the socket is private, a command line is not."""
        settings = self.settings
        return {
            "modules": list(settings.jobs_modules) if settings.jobs_modules is not None else None,
            "pools": list(self.pools),
            "surroundings": {
                "artifacts_url": settings.resolved_artifacts_url(),
                "gateway_url": settings.gateway_url,
                "principal_secret": settings.principal_secret.get_secret_value(),
            },
            "telemetry": {
                "log_level": settings.log_level,
                "log_format": settings.log_format,
                "otel_endpoint": settings.otel_endpoint,
            },
        }


class ChildProcess:
    """One process that serves one job at a time, under its guard (see `shared.jobs.guard`)."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self.served = 0
        self.tenant: str | None = None

    @classmethod
    async def start(cls, options: ChildOptions) -> ChildProcess:
        """Start a process and wait until it has imported its handlers.

        Raises:
            ChildFailedToStart: it ended or hung on the way.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-X", "faulthandler", "-m", "shared.jobs.launch"),
                *(str(theirs.fileno()), str(os.getpid())),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else None,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        child = cls(process, reader, writer)
        try:
            async with asyncio.timeout(START_SECONDS):
                await child.send(options.message())
                ready = await child.receive()
        except TimeoutError:
            ready = None
        except BaseException:
            await child.kill()
            raise
        if ready is None:
            code = await child.kill()
            raise ChildFailedToStart(f"the process of a job ended with status {code} before it was ready")
        return child

    @property
    def pid(self) -> int:
        """Of the guard, the parent of the process that runs jobs; also the id of their process group."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs, as far as is known."""
        return self._process.returncode is None and not self._reader.at_eof()

    def fits(self, tenant: str) -> bool:
        """Whether a job of `tenant` may run here: a process never sees two tenants."""
        return self.is_alive and self.tenant in (None, tenant)

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send a message; silently nowhere when the process is gone: its end is noticed by `receive`."""
        try:
            self._writer.write(frames.encode(message))
            await self._writer.drain()
        except (ConnectionError, RuntimeError):
            return

    def post(self, message: Mapping[str, Any]) -> None:
        """`send` without waiting."""
        if not self._writer.is_closing():
            self._writer.write(frames.encode(message))

    async def receive(self) -> frames.Message | None:
        """The next message, None when the process has gone or talks nonsense."""
        try:
            return await frames.read(self._reader)
        except (frames.FrameTooLarge, ValueError):
            return None

    def kill_now(self) -> None:
        """SIGKILL the process and all below it, without waiting for their end."""
        # The guard stays, to end what is started while we look; before it has a job, it is the one to kill.
        if not kill_below(self.pid):
            kill_tree(self.pid)

    async def kill(self) -> int:
        """SIGKILL the process and all below it, if they still run; its exit status, negative for a signal."""
        return await self._reap(at_once=True)

    async def finish(self) -> int:
        """Let the process end by itself and clear away what it left behind; see `kill`."""
        self.post({"type": "exit"})
        return await self._reap(at_once=False)

    async def _reap(self, *, at_once: bool) -> int:
        if at_once and self._process.returncode is None:
            self.kill_now()
        try:
            code = await asyncio.wait_for(self._process.wait(), EXIT_SECONDS)
        except TimeoutError:
            kill_tree(self.pid)
            code = await self._process.wait()
        # A guard that was itself killed leaves the group behind.
        kill_tree(self.pid)
        self._writer.close()
        return code

    async def wait(self) -> int:
        """Its exit status once its socket has closed."""
        return await self._reap(at_once=False)


def _has_descriptor(stream: Any) -> bool:
    try:
        stream.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    return True
