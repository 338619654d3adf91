"""For tests of services that queue work: a real worker in the test's own loop, and a handler run inline."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from shared.identity import Principal
from shared.jobs.child import call
from shared.jobs.context import Interrupted, JobContext, Surroundings
from shared.jobs.handlers import HandlerSpec, load_handlers
from shared.jobs.settings import JobSettings
from shared.jobs.supervisor import Supervisor

READY_SECONDS = 60.0
SECRET = "the-secret-of-inline-jobs-0123456789abcdef"


@asynccontextmanager
async def running_worker(
    settings: JobSettings,
    pools: Sequence[str],
    concurrency: int = 1,
    registry: CollectorRegistry | None = None,
) -> AsyncIterator[Supervisor]:
    """A real supervisor in this event loop; handlers run in processes of their own. Drained at the end."""
    handlers = load_handlers(settings.jobs_modules)
    supervisor = Supervisor(settings, handlers, pools=pools, concurrency=concurrency, registry=registry)
    running = asyncio.create_task(supervisor.run())
    ready = asyncio.create_task(supervisor.ready.wait())
    try:
        await asyncio.wait((running, ready), timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield supervisor
    finally:
        ready.cancel()
        supervisor.stop()
        await running


@dataclass
class InlineRun:
    """What a handler did: its result (None when interrupted), every report, every saved state."""

    result: dict[str, Any] | None = None
    reports: list[tuple[float, str | None, dict[str, Any]]] = field(default_factory=list)
    checkpoints: list[Mapping[str, Any]] = field(default_factory=list)
    interrupt_after: int | None = None

    @property
    def stop_reason(self) -> str | None:
        """A stop is asked for from checkpoint number `interrupt_after` on."""
        after = self.interrupt_after
        return "drain" if after is not None and len(self.checkpoints) >= after else None

    def report(self, progress: float, message: str | None, metrics: Mapping[str, Any]) -> None:
        self.reports.append((progress, message, dict(metrics)))

    def save(self, state: Mapping[str, Any]) -> None:
        self.checkpoints.append(state)


def run_inline(
    spec: HandlerSpec,
    parameters: Mapping[str, Any],
    *,
    checkpoint: Mapping[str, Any] | None = None,
    interrupt_after: int | None = None,
    scopes: Sequence[str] = ("admin",),
) -> InlineRun:
    """Run a handler in this thread, without database, queue or process.

    `checkpoint` is one of an earlier run's `checkpoints`. Exceptions of the handler pass through.
    """
    line = InlineRun(interrupt_after=interrupt_after)
    principal = Principal(key_id="key_inline", tenant="inline", scopes=frozenset(scopes))
    with tempfile.TemporaryDirectory() as folder:
        job = JobContext(
            id="job_inline",
            kind="inline",
            attempt=1,
            principal=principal,
            parameters=spec.validate(parameters),
            dependencies={},
            deadline=None,
            _saved=checkpoint,
            _line=line,
            _surroundings=Surroundings(folder, "http://127.0.0.1:9", SECRET),
        )
        try:
            line.result = call(spec, job)
        except Interrupted:
            line.result = None
    return line
