"""`Jobs`: what a service or the gateway holds to submit, look at and stop queued work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from opentelemetry import propagate
from prometheus_client import CollectorRegistry

from shared.database import new_id
from shared.idempotency import fingerprint_of
from shared.identity import Principal
from shared.jobs import queries
from shared.jobs.following import EventHub, follow
from shared.jobs.handlers import Handlers, find_spec
from shared.jobs.listing import Visible
from shared.jobs.metrics import QueueMetrics, failure_counter
from shared.jobs.schemas import Job, JobEvent, JobState, JobSummary
from shared.jobs.settings import JobSettings
from shared.jobs.store import JobDatabase
from shared.jobs.tasks import end_tasks
from shared.jobs.transport import QUEUE_DOWN, Announcement, Transport
from shared.jobs.upkeep import Upkeep, pool_depths
from shared.problems import FieldError, Forbidden, TooManyRequests, Unprocessable
from shared.telemetry import logger

log = logger(__name__)

DEPTH_SECONDS = 15.0
COUNT_SECONDS = 5.0


class Jobs:
    """The queue as its callers see it. Use as an async context manager around the service's life."""

    def __init__(self, settings: JobSettings) -> None:
        self._settings = settings
        redis_url = settings.redis_url.get_secret_value() if settings.redis_url else None
        self.database = JobDatabase(settings.resolved_jobs_database_url())
        self._transport = Transport(redis_url, settings.jobs_namespace)
        self._hub = EventHub(self._transport)
        self.upkeep = Upkeep(self.database, self._transport, timedelta(days=settings.jobs_failed_days))
        self._tasks: list[asyncio.Task[None]] = []
        self._metrics: QueueMetrics | None = None
        self._queued: dict[str, tuple[float, int]] = {}

    async def __aenter__(self) -> Self:
        await self.database.prepare()
        steps = (self.upkeep.run(), self._hub.run(), self._show_depths())
        self._tasks = [asyncio.create_task(step) for step in steps]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await end_tasks(self._tasks)
        await self._transport.close()
        await self.database.close()

    async def ready(self) -> str | None:
        """Readiness: the database answers. Without Redis work still starts, only later."""
        return await self.database.ping()

    def metrics(self, registry: CollectorRegistry) -> None:
        """Show depth and age of every pool in `registry`, and the bad ends that this process writes."""
        self._metrics = QueueMetrics(registry)
        self.count_failures(registry)

    def count_failures(self, registry: CollectorRegistry) -> None:
        """Count in `registry` the bad ends that this process writes; the pools are shown elsewhere."""
        self.database.failures = failure_counter(registry)

    async def submit(
        self,
        principal: Principal,
        handlers: Handlers,
        kind: str,
        parameters: dict[str, Any],
        *,
        idempotency_key: str | None = None,
        priority: int = 0,
        not_before: datetime | None = None,
        deadline: datetime | None = None,
        depends_on: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Job:
        """Queue a job; once this returns it will run even if every process dies now.

        Raises:
            UnknownKind, Unprocessable: the kind, its parameters or the times are wrong.
            Forbidden: the principal lacks the kind's scope.
            IdempotencyConflict: the key was used with another request.
            TooManyRequests: the tenant has too many jobs waiting.
        """
        spec = find_spec(handlers, kind)
        if not principal.allows(spec.scope):
            raise Forbidden(f"Jobs of the kind '{kind}' need the scope '{spec.scope}'.")
        parameters = spec.validate(parameters)
        now = self.database.now()
        request = {
            "kind": kind,
            "parameters": parameters,
            "priority": priority,
            "not_before": not_before,
            "deadline": deadline,
            "depends_on": sorted(set(depends_on)),
            "timeout": timeout_s,
        }
        fingerprint = fingerprint_of(request)
        if idempotency_key is not None:
            known = await queries.find_submitted(
                self.database, principal.tenant, idempotency_key, fingerprint
            )
            if known is not None:
                return known
        _check_times(now, not_before, deadline)
        await self._check_room(principal.tenant)
        row = queries.new_row(
            now,
            id=new_id("job"),
            tenant=principal.tenant,
            kind=kind,
            pool=spec.pool,
            scope=spec.scope,
            rank=-priority,
            principal=_principal_data(principal),
            parameters=parameters,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint if idempotency_key is not None else None,
            max_attempts=spec.max_attempts,
            timeout_s=min(timeout_s or spec.timeout_s, spec.timeout_s),
            backoff_s=spec.backoff_s,
            backoff_limit_s=spec.backoff_limit_s,
            result_ttl_s=spec.result_ttl_s,
            not_before=not_before,
            deadline=deadline,
            available_at=max(now, not_before) if not_before else now,
            trace_parent=_trace_parent(),
        )
        job, is_new = await queries.submit(self.database, row, depends_on, Visible(principal))
        if is_new and job.waiting_on == 0 and not (not_before and not_before > now):
            await self._announce(job)
        return job

    async def get(self, principal: Principal, job_id: str, kinds: frozenset[str] | None = None) -> Job:
        """One job.

        Raises:
            JobNotFound: there is none this principal may see.
        """
        return await queries.get(self.database, job_id, Visible(principal, kinds))

    async def list(
        self,
        principal: Principal,
        *,
        among: frozenset[str] | None = None,
        states: Sequence[JobState] = (),
        kinds: Sequence[str] = (),
        cursor: str | None = None,
        limit: int = 50,
    ) -> tuple[Sequence[JobSummary], str | None]:
        """One page of the tenant's jobs, newest first, and the cursor of the next page."""
        return await queries.listing(
            self.database,
            Visible(principal, among),
            states=states,
            kinds=kinds,
            cursor=cursor,
            limit=limit,
        )

    async def cancel(self, principal: Principal, job_id: str, kinds: frozenset[str] | None = None) -> Job:
        """Stop a job: at once if it waits, else as soon as its process is gone.

        Raises:
            JobNotFound: there is none this principal may see.
            JobFinished: it has succeeded or failed already.
        """
        job = await queries.cancel(self.database, job_id, Visible(principal, kinds))
        with contextlib.suppress(*QUEUE_DOWN):
            if job.cancelling:
                await self._transport.tell_stop(job.id)
            else:
                await self._transport.forget(job.id, job.pool)
            await self._transport.tell_news(job.id)
        return job

    async def retry(self, principal: Principal, job_id: str, kinds: frozenset[str] | None = None) -> Job:
        """Queue a failed or cancelled job again, from its last checkpoint.

        Raises:
            JobNotFound: there is none this principal may see.
            JobNotRetryable: it cannot be run again.
        """
        job = await queries.retry(self.database, job_id, Visible(principal, kinds))
        if job.waiting_on == 0:
            await self._announce(job)
        return job

    async def events(
        self,
        principal: Principal,
        job_id: str,
        *,
        after: int = 0,
        kinds: frozenset[str] | None = None,
    ) -> AsyncIterator[JobEvent]:
        """What happens to a job from sequence number `after` on, until it is over.

        Raises:
            JobNotFound: there is none this principal may see.
        """
        await self.get(principal, job_id, kinds)
        async for event in follow(self.database, self._hub, job_id, after):
            if event is not None:
                yield event

    async def has_events(self, job_id: str, after: int) -> bool:
        """Whether anything happened to a job after sequence number `after`."""
        return bool(await queries.events_after(self.database, job_id, after))

    @property
    def hub(self) -> EventHub:
        """Who wakes the followers of events."""
        return self._hub

    async def _announce(self, job: Job) -> None:
        """The quick way to Redis; if it fails, or this process dies here, the relay does it."""
        item = Announcement(job.id, job.pool, -job.priority, job.created_at)
        try:
            await self._transport.announce([item])
        except QUEUE_DOWN as error:
            log.warning(
                "redis is away; the job waits for the relay", job_id=job.id, error=type(error).__name__
            )

    async def _check_room(self, tenant: str) -> None:
        """Refuse what would queue without bound. The count is a few seconds old, so the bound is soft."""
        counted_at, count = self._queued.get(tenant, (float("-inf"), 0))
        if time.monotonic() - counted_at > COUNT_SECONDS:
            counted_at, count = time.monotonic(), await queries.count_queued(self.database, tenant)
        self._queued[tenant] = (counted_at, count + 1)
        if count >= self._settings.jobs_max_queued:
            raise TooManyRequests(
                f"{count} jobs of this tenant are waiting, and {self._settings.jobs_max_queued} may; "
                "submit more when some have run.",
                retry_after=30,
                code="queue_full",
            )

    async def _show_depths(self) -> None:
        while True:
            if self._metrics is not None:
                try:
                    self._metrics.show(await pool_depths(self.database))
                except Exception as error:
                    log.warning("queue depth unknown", error=type(error).__name__)
            await asyncio.sleep(DEPTH_SECONDS)


def _principal_data(principal: Principal) -> dict[str, Any]:
    return {
        "key_id": principal.key_id,
        "scopes": sorted(principal.scopes),
        "request_id": principal.request_id,
        "budget_id": principal.budget_id,
    }


def _trace_parent() -> str | None:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier.get("traceparent")


def _check_times(now: datetime, not_before: datetime | None, deadline: datetime | None) -> None:
    if deadline is not None and deadline <= max(now, not_before or now):
        raise Unprocessable(
            "The deadline must lie in the future and after not_before.",
            errors=[FieldError(location="body.deadline", message="too early")],
        )
