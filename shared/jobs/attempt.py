"""One attempt: a lease, the process that works on it, and what is written of it until it ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from enum import IntEnum
from typing import Any, TypeVar

from opentelemetry import propagate, trace
from sqlalchemy.exc import SQLAlchemyError

from shared.jobs.child_process import ChildProcess
from shared.jobs.frames import Message
from shared.jobs.handlers import HandlerSpec
from shared.jobs.leases import Lease, LeaseLost, Leases, Report
from shared.jobs.metrics import WorkerMetrics
from shared.jobs.problems import AttemptTimeout, MemoryLimitExceeded, died
from shared.jobs.process_tree import proportional_bytes, resident_bytes
from shared.jobs.transitions import problem_of
from shared.jobs.transport import QUEUE_DOWN, Announcement, Transport
from shared.problems import DeadlineExceeded, Problem
from shared.telemetry import logger, tracer

log = logger(__name__)
spans = tracer(__name__)

DATABASE_DOWN = (SQLAlchemyError, OSError, TimeoutError)
"""What a write raises while the database is away; it is tried again."""

DATABASE_SECONDS = 8.0
"""A statement without an answer for so long is given up; two of them fit into a lease."""

RETRY_SECONDS = 0.5
FINAL_WRITE_SECONDS = 60.0
REPORTS_SECONDS = 0.2

Answer = TypeVar("Answer")


class Stop(IntEnum):
    """Why an attempt is stopped; a higher reason replaces a lower one."""

    drain = 1
    timeout = 2
    deadline = 3
    memory = 4
    cancel = 5
    lost = 6


class Attempt:
    """Runs one lease on one process."""

    def __init__(
        self,
        lease: Lease,
        spec: HandlerSpec,
        child: ChildProcess,
        *,
        leases: Leases,
        transport: Transport,
        metrics: WorkerMetrics,
        lease_until: float,
        clock: Callable[[], datetime],
    ) -> None:
        self.lease, self.spec, self.child = lease, spec, child
        self._leases, self._transport, self._metrics = leases, transport, metrics
        self.began = time.monotonic()
        self.lease_until = lease_until
        self.stopping: Stop | None = None
        self.ended = False
        self._limits = self._time_limits(clock())
        self._kill: asyncio.TimerHandle | None = None
        self._reports: list[tuple[int, Report]] = []
        self._flush: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    def _time_limits(self, now: datetime) -> list[tuple[float, Stop]]:
        limits = [(self.began + min(self.lease.timeout_s, self.spec.timeout_s), Stop.timeout)]
        if self.lease.deadline is not None:
            limits.append((self.began + (self.lease.deadline - now).total_seconds(), Stop.deadline))
        return limits

    # -- what others ask of a running attempt

    def renewed(self, until: float) -> None:
        """The lease holds until `until` (monotonic); the process is told, lest it outlive us."""
        self.lease_until = until
        if not self.ended:
            self.child.post({"type": "lease", "seconds": until - time.monotonic()})

    def stop(self, reason: Stop, grace_s: float) -> None:
        """Ask the handler to leave, and kill its process after `grace_s`."""
        if self.ended or (self.stopping is not None and self.stopping >= reason):
            return
        self.stopping = reason
        self.child.post({"type": "stop", "reason": reason.name})
        loop = asyncio.get_running_loop()
        at = loop.time() + grace_s
        if self._kill is None or at < self._kill.when():
            if self._kill is not None:
                self._kill.cancel()
            self._kill = loop.call_at(at, self._kill_now)

    def _kill_now(self) -> None:
        if not self.ended:
            self.child.kill_now()

    def check(self) -> None:
        """Look at the clock and at the memory; called often."""
        now = time.monotonic()
        if now > self.lease_until - 1.0:
            self.stop(Stop.lost, 0.0)
            return
        for limit, reason in self._limits:
            if now > limit:
                self.stop(reason, self.spec.grace_s)
        limit_bytes = self.spec.memory_limit_bytes
        if resident_bytes(self.child.pid) > limit_bytes and proportional_bytes(self.child.pid) > limit_bytes:
            self.stop(Stop.memory, 0.0)

    # -- the attempt itself

    async def run(self) -> None:
        """Start the handler, follow it, and write how it ended."""
        links = _submit_links(self.lease.trace_parent)
        attributes: dict[str, str | int] = {
            "job.id": self.lease.job_id,
            "job.kind": self.lease.kind,
            "job.attempt": self.lease.attempt,
        }
        with spans.start_as_current_span("job run", links=links, attributes=attributes) as span:
            self._metrics.waited.labels(self.lease.pool).observe(self.lease.waited_s)
            await self.child.send(self._run_message())
            await self._tell()
            end = await self._follow()
            self.ended = True
            if self._kill is not None:
                self._kill.cancel()
            state = await self._conclude(end)
            span.set_attribute("job.state", state or "lease lost")
            seconds = time.monotonic() - self.began
            self._metrics.ended(self.lease.kind, state or "lost", seconds)
            log.info(
                "attempt ended",
                job_id=self.lease.job_id,
                kind=self.lease.kind,
                attempt=self.lease.attempt,
                state=state or "lease lost",
                seconds=round(seconds, 3),
            )
        await self._tell()

    def _run_message(self) -> Message:
        lease, principal = self.lease, self.lease.principal
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return {
            "type": "run",
            "id": lease.job_id,
            "kind": lease.kind,
            "attempt": lease.attempt,
            "principal": {
                "key_id": principal.key_id,
                "tenant": principal.tenant,
                "scopes": sorted(principal.scopes),
                "request_id": principal.request_id,
                "budget_id": principal.budget_id,
            },
            "parameters": lease.parameters,
            "dependencies": lease.dependencies,
            "deadline": lease.deadline.isoformat() if lease.deadline else None,
            "checkpoint": lease.checkpoint,
            "trace": carrier,
            "lease_seconds": self.lease_until - time.monotonic(),
        }

    async def _follow(self) -> Message | None:
        """Write what the handler reports until it ends; its last message, None when it just went."""
        while (message := await self.child.receive()) is not None:
            if message["type"] == "end":
                break
            if message["type"] == "report":
                self._note(message)
            elif message["type"] == "checkpoint":
                await self._checkpoint(message)
        await self._write_reports()
        return message

    def _note(self, message: Message) -> None:
        report = Report(float(message["progress"]), message["message"], dict(message["metrics"]))
        self._reports.append((int(message["number"]), report))
        if self._flush is None or self._flush.done():
            self._flush = asyncio.create_task(self._flush_soon())

    async def _flush_soon(self) -> None:
        await asyncio.sleep(REPORTS_SECONDS)
        await self._write_reports()

    async def _write_reports(self) -> None:
        async with self._writing:
            if not self._reports or self.stopping is Stop.lost:
                return
            reports, self._reports = self._reports, []
            try:
                await self._persist(lambda: self._leases.report(self.lease, reports))
            except DATABASE_DOWN as error:
                log.warning("reports dropped", job_id=self.lease.job_id, error=type(error).__name__)
                return
        await self._tell()

    async def _checkpoint(self, message: Message) -> None:
        await self._write_reports()
        number, state = int(message["number"]), message["state"]
        try:
            await self._persist(lambda: self._leases.checkpoint(self.lease, number, state))
        except (LeaseLost, *DATABASE_DOWN):
            self.stop(Stop.lost, 0.0)
            return
        self.child.post({"type": "saved", "number": number})
        await self._tell()

    async def _persist(self, write: Callable[[], Awaitable[Answer]], *, final: bool = False) -> Answer:
        """Write, again and again while the database is away and the lease may still be ours.

        The fencing token makes a repeated or late write harmless, so the last word of an attempt is
        tried for longer than the lease.
        """
        give_up = time.monotonic() + FINAL_WRITE_SECONDS
        while True:
            try:
                async with asyncio.timeout(DATABASE_SECONDS):
                    return await write()
            except DATABASE_DOWN as error:
                if time.monotonic() > (give_up if final else self.lease_until):
                    raise
                log.warning("the database is away", job_id=self.lease.job_id, error=type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    # -- the end

    async def _conclude(self, end: Message | None) -> str | None:
        try:
            return await self._write_end(end)
        except DATABASE_DOWN as error:
            log.error(
                "the end could not be written; the job will be run again from its checkpoint",
                job_id=self.lease.job_id,
                error=type(error).__name__,
            )
            return None

    async def _write_end(self, end: Message | None) -> str | None:
        if end is not None and end["outcome"] == "succeeded" and self.stopping is not Stop.lost:
            result = end["result"]
            return await self._persist(lambda: self._leases.succeed(self.lease, result), final=True)
        # A job that is not running any more has no process any more: first the kill, then the word.
        exit_code = await (self.child.wait() if end is None else self.child.kill())
        lease = self.lease
        match self.stopping:
            case Stop.lost:
                return None
            case Stop.cancel:
                return await self._persist(lambda: self._leases.cancelled(lease), final=True)
            case Stop.timeout:
                seconds = min(lease.timeout_s, self.spec.timeout_s)
                return await self._failed(AttemptTimeout(f"The attempt ran longer than {seconds:g} s."), True)
            case Stop.deadline:
                return await self._failed(DeadlineExceeded("The deadline passed while the job ran."), True)
            case Stop.memory:
                limit = self.spec.memory_limit_bytes
                problem = MemoryLimitExceeded(f"The attempt used more than {limit} bytes of memory.")
                return await self._failed(problem, False)
        interrupted = end is not None and end["outcome"] == "interrupted"
        if interrupted or (end is None and self.stopping is Stop.drain):
            back = await self._persist(lambda: self._leases.hand_back(lease), final=True)
            await self._announce(back)
            return "handed back" if back else None
        if end is None:
            return await self._failed(died(exit_code), False)
        return await self._record_failure(end["problem"], bool(end["final"]), end["after"])

    async def _failed(self, problem: Problem, final: bool) -> str | None:
        document = problem_of(self.lease.job_id, problem, self.lease.principal.request_id)
        return await self._record_failure(document, final, None)

    async def _record_failure(self, problem: dict[str, Any], final: bool, after: float | None) -> str | None:
        state, again = await self._persist(
            lambda: self._leases.fail(self.lease, problem, final=final, after_s=after), final=True
        )
        if after == 0.0:
            await self._announce(again)
        return "retrying" if state == "queued" else state

    async def _announce(self, waiting: Announcement | None) -> None:
        """Tell Redis at once; if it is away the relay does it later."""
        if waiting is not None:
            try:
                await self._transport.announce([waiting])
            except QUEUE_DOWN:
                return

    async def _tell(self) -> None:
        try:
            await self._transport.tell_news(self.lease.job_id)
        except QUEUE_DOWN:
            return


def _submit_links(trace_parent: str | None) -> list[trace.Link]:
    if trace_parent is None:
        return []
    context = propagate.extract({"traceparent": trace_parent})
    return [trace.Link(trace.get_current_span(context).get_span_context())]
