"""A worker: takes jobs from its pools, runs each in a process, keeps the leases, drains when told to.

The supervisor never runs a handler itself, so nothing a handler does can keep it from renewing a lease
or from killing a process that has lost one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from datetime import timedelta

from prometheus_client import CollectorRegistry

from shared.database import new_id
from shared.jobs.attempt import DATABASE_DOWN, DATABASE_SECONDS, Attempt, Stop
from shared.jobs.child_process import ChildFailedToStart, ChildOptions, ChildProcess
from shared.jobs.handlers import Handlers, HandlerSpec
from shared.jobs.leases import Lease, Leases
from shared.jobs.metrics import QueueMetrics, WorkerMetrics, failure_counter
from shared.jobs.settings import JobSettings
from shared.jobs.store import JobDatabase
from shared.jobs.tasks import end_tasks
from shared.jobs.transport import QUEUE_DOWN, Transport
from shared.jobs.upkeep import Upkeep, pool_depths
from shared.telemetry import logger

log = logger(__name__)

CHECK_SECONDS = 0.25
CANCEL_POLL_SECONDS = 0.75
TAKE_SECONDS = 1.0
POLL_SECONDS = 0.5
PAUSE_SECONDS = 1.0
DEPTH_SECONDS = 15.0
SETTLE_SECONDS = 4.0
"""From the end of the grace of a drain to the last word about its jobs."""


class Supervisor:
    """One worker process with `concurrency` places for jobs."""

    def __init__(
        self,
        settings: JobSettings,
        handlers: Handlers,
        *,
        pools: Sequence[str],
        concurrency: int,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.worker_id = new_id("worker")
        self._settings = settings
        self._pools = tuple(pools)
        self._handlers = {kind: spec for kind, spec in handlers.items() if spec.pool in self._pools}
        self._concurrency = concurrency
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        self._database = JobDatabase(settings.resolved_jobs_database_url())
        self._transport = Transport(redis_url, settings.jobs_namespace)
        failed_kept = timedelta(days=settings.jobs_failed_days)
        self._leases = Leases(
            self._database,
            self.worker_id,
            lease_seconds=settings.jobs_lease_seconds,
            failed_kept=failed_kept,
        )
        registry = registry or CollectorRegistry()
        self._metrics, self._queue_metrics = WorkerMetrics(registry), QueueMetrics(registry)
        self._database.failures = failure_counter(registry)
        self.upkeep = Upkeep(self._database, self._transport, failed_kept)
        self._options = ChildOptions(settings, self._pools)
        self._stopping = asyncio.Event()
        self._hungry: deque[asyncio.Future[Lease | None]] = deque()
        self._hunger = asyncio.Event()
        self._taken: list[str] = []
        # Until when (monotonic) each job on its way to a place, or in one, is ours.
        self._claimed: dict[str, float] = {}
        self._unclaimed: set[str] = set()
        self._attempts: dict[str, Attempt] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self.ready = asyncio.Event()

    def stop(self) -> None:
        """Begin to drain: no new jobs, running ones are asked to save and leave."""
        self._stopping.set()

    async def run(self) -> None:
        """Work until `stop`; returns when every job is ended or handed back."""
        if not await self._prepare():
            return
        log.info(
            "worker started",
            worker=self.worker_id,
            pools=list(self._pools),
            kinds=sorted(self._handlers),
            concurrency=self._concurrency,
        )
        background = [
            asyncio.create_task(step)
            for step in (
                self._keep_leases(),
                self._watch(),
                self._hear_stops(),
                self._poll_cancels(),
                self._show_depths(),
                self.upkeep.run(),
            )
        ]
        working = [asyncio.create_task(self._feed())]
        working += [asyncio.create_task(self._place()) for _ in range(self._concurrency)]
        try:
            await self._until_stopped([*working, *background])
            await self._drain(working)
        finally:
            await end_tasks([*working, *background, *self._leaving])
            await self._transport.close()
            await self._database.close()
            log.info("worker stopped", worker=self.worker_id)

    async def _until_stopped(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """Wait for `stop`. None of `tasks` ends before that: what ended failed, and ends the worker."""
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_tasks([stopped])
        for task in tasks:
            if task.done() and not self._stopping.is_set():
                task.result()

    async def _drain(self, working: Sequence[asyncio.Task[None]]) -> None:
        """Let jobs save and leave; what cannot be written in time is left to the lease's end."""
        grace = self._settings.jobs_drain_seconds
        for attempt in list(self._attempts.values()):
            attempt.stop(Stop.drain, grace)
        try:
            async with asyncio.timeout(grace + SETTLE_SECONDS):
                await asyncio.gather(*working)
                await asyncio.gather(*self._leaving)
        except TimeoutError:
            log.warning("jobs could not be handed back in time", jobs=sorted(self._attempts))

    async def _prepare(self) -> bool:
        """Bring the tables up to date, waiting for a database that is away; False when told to stop first."""
        while not self._stopping.is_set():
            try:
                await self._database.prepare()
                return True
            except DATABASE_DOWN as error:
                log.warning("the database is away", error=f"{type(error).__name__}: {error}"[:200])
                await self._pause(PAUSE_SECONDS)
        return False

    # -- places: each has a process at hand and one job at a time

    async def _place(self) -> None:
        child: ChildProcess | None = None
        try:
            while not self._stopping.is_set():
                try:
                    child = child if child and child.is_alive else await ChildProcess.start(self._options)
                except (ChildFailedToStart, OSError) as error:
                    log.error("no process for jobs", error=str(error))
                    await self._pause(PAUSE_SECONDS)
                    continue
                if not self.ready.is_set():
                    self.ready.set()
                    log.info("ready for jobs", worker=self.worker_id)
                lease = await self._next_lease()
                if lease is not None:
                    idle, child = child, None
                    try:
                        child = await self._serve(lease, idle)
                    finally:
                        self._claimed.pop(lease.job_id, None)
        finally:
            if child is not None:
                await child.kill()

    async def _next_lease(self) -> Lease | None:
        """A lease, or None when draining began."""
        if self._stopping.is_set():
            return None
        future: asyncio.Future[Lease | None] = asyncio.get_running_loop().create_future()
        self._hungry.append(future)
        self._hunger.set()
        return await future

    async def _serve(self, lease: Lease, child: ChildProcess) -> ChildProcess | None:
        """Run one job; the process if it may serve another."""
        spec = self._handlers[lease.kind]
        if not child.fits(lease.principal.tenant):
            await child.kill()
            try:
                child = await ChildProcess.start(self._options)
            except (ChildFailedToStart, OSError) as error:
                log.error("no process for jobs", error=str(error))
                with contextlib.suppress(*DATABASE_DOWN):
                    await self._leases.hand_back(lease)
                return None
        try:
            attempt = await self._attempt(lease, spec, child)
        except BaseException:
            await child.kill()
            raise
        if attempt.stopping is None and child.is_alive and child.served < spec.processes_jobs:
            return child
        # It leaves while the next one starts.
        leaving = asyncio.create_task(self._finish(child))
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        return None

    async def _finish(self, child: ChildProcess) -> None:
        try:
            await child.finish()
        except BaseException:
            child.kill_now()
            raise

    async def _attempt(self, lease: Lease, spec: HandlerSpec, child: ChildProcess) -> Attempt:
        child.tenant = lease.principal.tenant
        child.served += 1
        attempt = Attempt(
            lease,
            spec,
            child,
            leases=self._leases,
            transport=self._transport,
            metrics=self._metrics,
            lease_until=self._claimed[lease.job_id],
            clock=self._database.now,
        )
        self._attempts[lease.job_id] = attempt
        if self._stopping.is_set():
            attempt.stop(Stop.drain, self._settings.jobs_drain_seconds)
        self._metrics.running.inc()
        try:
            await attempt.run()
        finally:
            self._metrics.running.dec()
            self._attempts.pop(lease.job_id, None)
        return attempt

    # -- taking jobs

    async def _feed(self) -> None:
        """Give waiting places their next job, taking as many at once as there are places."""
        while not self._stopping.is_set():
            if not self._hungry:
                self._hunger.clear()
                await _first(self._hunger, self._stopping)
                continue
            try:
                await self._take(len(self._hungry))
            except DATABASE_DOWN as error:
                log.warning("no jobs can be taken", error=f"{type(error).__name__}: {error}"[:200])
                await self._pause(PAUSE_SECONDS)
        while self._hungry:
            self._hungry.popleft().set_result(None)

    async def _take(self, count: int) -> None:
        kinds = list(self._handlers)
        if not self._taken:
            self._taken = await self._find(kinds, count)
        if not self._taken:
            return
        # Kept until the lease is sure: what was popped from Redis must not be dropped because SQL was away.
        async with asyncio.timeout(DATABASE_SECONDS):
            leases = await self._leases.take(self._taken, kinds)
        self._taken = []
        for lease in leases:
            self._claimed[lease.job_id] = lease.taken_at + self._settings.jobs_lease_seconds
            self._hungry.popleft().set_result(lease)

    async def _find(self, kinds: list[str], count: int) -> list[str]:
        try:
            return await self._transport.take(self._pools, count, TAKE_SECONDS)
        except QUEUE_DOWN:
            async with asyncio.timeout(DATABASE_SECONDS):
                found = await self._leases.due(self._pools, kinds, count)
            if not found:
                await self._pause(POLL_SECONDS)
            return found

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    # -- keeping them

    async def _keep_leases(self) -> None:
        wait = self._settings.jobs_renew_seconds
        while True:
            await asyncio.sleep(wait)
            begun = time.monotonic()
            try:
                async with asyncio.timeout(DATABASE_SECONDS):
                    held = await self._leases.renew()
            except DATABASE_DOWN as error:
                log.warning("leases not renewed", error=type(error).__name__)
                wait = PAUSE_SECONDS
                continue
            wait = self._settings.jobs_renew_seconds
            await self._settle(held, begun)

    async def _settle(self, held: dict[str, tuple[int, bool]], begun: float) -> None:
        """Compare what the database says this worker holds with what it runs."""
        until = begun + self._settings.jobs_lease_seconds
        for job_id, attempt in list(self._attempts.items()):
            number, cancelling = held.get(job_id, (0, False))
            if number == attempt.lease.attempt:
                attempt.renewed(until)
                if cancelling:
                    attempt.stop(Stop.cancel, attempt.spec.grace_s)
            elif attempt.began < begun and not attempt.ended:
                log.warning("lease lost", job_id=job_id, attempt=attempt.lease.attempt)
                attempt.stop(Stop.lost, 0.0)
        for job_id, (number, _) in held.items():
            if job_id in self._claimed:
                self._claimed[job_id] = until
            elif job_id in self._unclaimed:
                # Leased by a statement whose answer never came, and still nobody's a round later.
                with contextlib.suppress(*DATABASE_DOWN):
                    await self._leases.release(job_id, number)
        self._unclaimed = held.keys() - self._claimed.keys()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            for attempt in list(self._attempts.values()):
                attempt.check()

    async def _hear_stops(self) -> None:
        """Cancels, as soon as Redis tells of them."""
        while True:
            try:
                async with self._transport.listen("stop") as told:
                    async for job_id in told:
                        self._cancel_attempt(job_id)
            except QUEUE_DOWN:
                await asyncio.sleep(PAUSE_SECONDS)

    async def _poll_cancels(self) -> None:
        """Cancels, from the database: what Redis did not tell."""
        while True:
            await asyncio.sleep(CANCEL_POLL_SECONDS)
            if not self._attempts:
                continue
            with contextlib.suppress(*DATABASE_DOWN):
                async with asyncio.timeout(DATABASE_SECONDS):
                    for job_id in await self._leases.to_cancel():
                        self._cancel_attempt(job_id)

    def _cancel_attempt(self, job_id: str) -> None:
        attempt = self._attempts.get(job_id)
        if attempt is not None:
            attempt.stop(Stop.cancel, attempt.spec.grace_s)

    async def _show_depths(self) -> None:
        while True:
            with contextlib.suppress(*DATABASE_DOWN):
                self._queue_metrics.show(await pool_depths(self._database))
            await asyncio.sleep(DEPTH_SECONDS)


async def _first(*events: asyncio.Event) -> None:
    """Wait until one of `events` is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(waits)
