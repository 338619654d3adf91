"""A bounded pool of worker processes for an asyncio program.

At most `size` jobs run and `queue` wait; the next is refused at once. A job past its time or a
worker that dies costs that job alone: the process is replaced. Jobs travel through threads that
only wait, so the event loop neither decodes nor copies images.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.vision.work.frames import read_message, write_message

PIPE_BYTES = 1 << 20
START_SECONDS = 60.0
_ROOT = Path(__file__).parents[3]


class PoolBusyError(Exception):
    """All workers are busy and the queue is full; `retry_after` seconds are a fair guess."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("all workers are busy")
        self.retry_after = retry_after


class TaskTimeoutError(Exception):
    """The job took too long; its worker was killed."""


class TaskError(Exception):
    """The job failed; `code` is the reason. `trace` comes with `internal_error` alone."""

    def __init__(self, code: str, message: str, trace: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.trace = trace


@dataclass(frozen=True)
class Reply:
    """What a job gave: JSON data and binary blobs."""

    result: dict[str, Any]
    blobs: list[bytes]


class WorkerProcess:
    """One process and the two pipes to it; all methods but `kill` block."""

    def __init__(self, memory_bytes: int, threads: int) -> None:
        command = [sys.executable, "-m", "services.vision.work.worker", "--memory", str(memory_bytes)]
        counts = {f"{name}_NUM_THREADS": str(threads) for name in ("OMP", "OPENBLAS")}
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=_ROOT,
            env={"PATH": os.defpath, "PYTHONPATH": str(_ROOT), **counts},  # no secrets down there
            start_new_session=True,  # the terminal's Ctrl-C is for the service, which then drains
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._to, self._from = self.process.stdin, self.process.stdout
        for pipe in (self._to, self._from):
            with contextlib.suppress(AttributeError, OSError):  # larger pipes are Linux's, and optional
                fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def wait_ready(self) -> None:
        """Raises EOFError where the process could not start."""
        read_message(self._from)  # type: ignore[arg-type]

    def exchange(self, head: dict[str, Any], blobs: Sequence[bytes]) -> tuple[dict[str, Any], list[bytes]]:
        """Send a job, wait for its reply. Raises EOFError, OSError where the process dies."""
        _write_all(self._to.fileno(), head, blobs)
        return read_message(self._from)  # type: ignore[arg-type]

    def kill(self) -> None:
        self.process.kill()

    def close(self) -> None:
        """End the process, if it still lives, and free the pipes."""
        for pipe in (self._to, self._from):
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()


def _write_all(descriptor: int, head: dict[str, Any], blobs: Sequence[bytes]) -> None:
    with os.fdopen(os.dup(descriptor), "wb") as stream:
        write_message(stream, head, blobs)


class WorkerPool:
    """`size` workers; jobs by name (see tasks.TASKS)."""

    def __init__(self, *, size: int, queue: int, seconds: float, memory_bytes: int, threads: int = 1) -> None:
        self.size, self.queue, self.seconds = size, queue, seconds
        self._memory, self._worker_threads = memory_bytes, threads
        self._idle: deque[WorkerProcess] = deque()
        self._running: set[WorkerProcess] = set()
        self._slots = asyncio.Semaphore(size)
        self._threads = ThreadPoolExecutor(size, thread_name_prefix="vision-worker")
        self._admitted = 0
        self._average = 0.1
        self._closed = False
        self.started = False

    async def start(self) -> None:
        """Start all processes and wait until they can work."""
        workers = [self._spawn() for _ in range(self.size)]
        await asyncio.gather(*(self._in_thread(worker.wait_ready) for worker in workers))
        self._idle.extend(workers)
        self.started = True

    async def close(self) -> None:
        """End all processes. Running jobs end with them."""
        self._closed = True
        for worker in self._running:
            worker.kill()
        for worker in self._idle:
            worker.close()
        self._idle.clear()
        self._threads.shutdown(wait=False)

    @property
    def load(self) -> int:
        """Jobs running and waiting."""
        return self._admitted

    def process_ids(self) -> list[int]:
        """Process ids of the idle workers."""
        return [worker.process.pid for worker in self._idle]

    async def run(self, task: str, parameters: Any, blobs: Sequence[bytes] = ()) -> Reply:
        """Run one job.

        Raises PoolBusyError, TaskTimeoutError, TaskError (the job's own, or `image_malformed` where
        the worker died of it).
        """
        if self._closed or self._admitted >= self.size + self.queue:
            raise PoolBusyError(max(1.0, self._admitted * self._average / self.size))
        self._admitted += 1
        try:
            async with self._slots:
                head = {"task": task, "parameters": parameters}
                return await self._run_on(await self._worker(), head, blobs)
        finally:
            self._admitted -= 1

    async def _run_on(self, worker: WorkerProcess, head: dict[str, Any], blobs: Sequence[bytes]) -> Reply:
        """A cancelled caller must not leave a half-read pipe behind: its worker is killed."""
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        alarm = loop.call_later(self.seconds, worker.kill)
        healthy = False
        self._running.add(worker)
        try:
            reply, produced = await self._in_thread(worker.exchange, head, blobs)
            healthy = True
        except (EOFError, OSError, ValueError):
            if time.monotonic() - started >= self.seconds:
                raise TaskTimeoutError(f"the job took more than {self.seconds:g} s") from None
            raise TaskError("image_malformed", "the decoder gave up on the image") from None
        finally:
            alarm.cancel()
            self._running.discard(worker)
            if healthy and not self._closed:
                self._idle.append(worker)
            else:
                worker.kill()
                self._threads.submit(worker.close) if not self._closed else worker.close()
        self._average += 0.1 * (time.monotonic() - started - self._average)
        if "error" in reply:
            error = reply["error"]
            raise TaskError(error["code"], error["message"], error.get("trace"))
        return Reply(reply["result"], produced)

    async def _worker(self) -> WorkerProcess:
        """An idle worker, or a new one in place of one that died."""
        while self._idle:
            worker = self._idle.popleft()
            if worker.process.poll() is None:
                return worker
            worker.close()
        worker = self._spawn()
        alarm = asyncio.get_running_loop().call_later(START_SECONDS, worker.kill)
        try:
            await self._in_thread(worker.wait_ready)
        except BaseException:
            worker.close()
            raise
        finally:
            alarm.cancel()
        return worker

    def _spawn(self) -> WorkerProcess:
        return WorkerProcess(self._memory, self._worker_threads)

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)
