"""The metric of bad ends: every way a job or an attempt can end badly, each counted once."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import func, select

from shared.jobs import Job, Jobs, JobSettings, JobState
from shared.jobs.store import events
from shared.jobs.store import jobs as table
from shared.jobs.testing import running_worker
from shared.principal import Principal
from tests.integration.jobs.conftest import change, failure, submit, take, wait_for, worker_of

ECHO = "test.echo"

Ends = Counter[tuple[str, str, str]]
"""How often, by kind, problem code and outcome."""


def counted(*registries: CollectorRegistry) -> Ends:
    """What the metric says."""
    ends: Ends = Counter()
    for registry in registries:
        for metric in registry.collect():
            for sample in metric.samples:
                if sample.name == "latticework_job_failures_total":
                    labels = sample.labels
                    ends[labels["kind"], labels["code"], labels["outcome"]] += int(sample.value)
    return ends


async def recorded(jobs: Jobs) -> Ends:
    """What the events say."""
    statement = (
        select(table.c.kind, events.c.data, events.c.type)
        .join(table, table.c.id == events.c.job_id)
        .where(events.c.type.in_(["retrying", "failed"]))
    )
    async with jobs.database.reading() as session:
        rows = (await session.execute(statement)).all()
    return Counter((row.kind, row.data["problem"]["code"], row.type) for row in rows)


async def failed_jobs(jobs: Jobs) -> int:
    """How many jobs are in the state."""
    async with jobs.database.reading() as session:
        statement = select(func.count()).where(table.c.state == JobState.failed.value)
        return int(await session.scalar(statement) or 0)


async def final_failure(jobs: Jobs, principal: Principal, job: Job) -> None:
    """The request is at fault: no other attempt."""
    worker = worker_of(jobs)
    (lease,) = await take(worker, job.id)
    await worker.fail(lease, failure(job.id), final=True)


async def attempts_used_up(jobs: Jobs, principal: Principal, job: Job) -> None:
    """Three attempts, each counted."""
    worker = worker_of(jobs)
    for _ in range(3):
        await change(jobs, job.id, available_at=jobs.database.now())
        (lease,) = await take(worker, job.id)
        await worker.fail(lease, failure(job.id), final=False)


async def workers_lost(jobs: Jobs, principal: Principal, job: Job) -> None:
    """Three leases run out."""
    for number in range(3):
        await take(worker_of(jobs, f"worker_{number}", seconds=-1.0), job.id)
        await jobs.upkeep.reap()


async def overdue(jobs: Jobs, principal: Principal, job: Job) -> None:
    """The deadline passes while the job waits."""
    await change(jobs, job.id, deadline=jobs.database.now() - timedelta(seconds=1))
    await jobs.upkeep.end_overdue()


async def cancelled_waiting(jobs: Jobs, principal: Principal, job: Job) -> None:
    """A caller cancels it: what depends on it fails, in the caller's process."""
    await jobs.cancel(principal, job.id)


async def cancelled_running(jobs: Jobs, principal: Principal, job: Job) -> None:
    """Its process is stopped."""
    worker = worker_of(jobs)
    (lease,) = await take(worker, job.id)
    await jobs.cancel(principal, job.id)
    await worker.cancelled(lease)


async def cancelled_before_its_result(jobs: Jobs, principal: Principal, job: Job) -> None:
    """The result comes too late."""
    worker = worker_of(jobs)
    (lease,) = await take(worker, job.id)
    await jobs.cancel(principal, job.id)
    await worker.succeed(lease, {})


async def cancelled_and_failing(jobs: Jobs, principal: Principal, job: Job) -> None:
    """The handler raises after the cancel: that is no failure, the job is cancelled."""
    worker = worker_of(jobs)
    (lease,) = await take(worker, job.id)
    await jobs.cancel(principal, job.id)
    await worker.fail(lease, failure(job.id), final=True)


async def cancelled_and_lost(jobs: Jobs, principal: Principal, job: Job) -> None:
    """The worker goes after the cancel: again cancelled, not failed."""
    await take(worker_of(jobs, seconds=-1.0), job.id)
    await jobs.cancel(principal, job.id)
    await jobs.upkeep.reap()


HANDLER_FAILED = (ECHO, "handler_error", "failed")
HANDLER_RETRYING = (ECHO, "handler_error", "retrying")

WAYS: list[tuple[Callable[[Jobs, Principal, Job], Awaitable[None]], dict[tuple[str, str, str], int]]] = [
    (final_failure, {HANDLER_FAILED: 1}),
    (attempts_used_up, {HANDLER_RETRYING: 2, HANDLER_FAILED: 1}),
    (workers_lost, {(ECHO, "worker_lost", "retrying"): 2, (ECHO, "worker_lost", "failed"): 1}),
    (overdue, {(ECHO, "deadline_exceeded", "failed"): 1}),
    (cancelled_waiting, {}),
    (cancelled_running, {}),
    (cancelled_before_its_result, {}),
    (cancelled_and_failing, {}),
    (cancelled_and_lost, {}),
]


@pytest.mark.parametrize(("end", "own"), WAYS, ids=[end.__name__ for end, _ in WAYS])
async def test_every_bad_end_counts_once_and_so_does_all_that_depended_on_it(
    quiet_jobs: Jobs,
    principal: Principal,
    end: Callable[[Jobs, Principal, Job], Awaitable[None]],
    own: dict[tuple[str, str, str], int],
) -> None:
    jobs, registry = quiet_jobs, CollectorRegistry()
    jobs.metrics(registry)
    first, other = await submit(jobs, principal, ECHO), await submit(jobs, principal, ECHO)
    child = await submit(jobs, principal, "test.report", depends_on=[first.id, other.id])
    await submit(jobs, principal, "test.count", depends_on=[child.id, first.id])
    await end(jobs, principal, first)
    expected = Counter(own)
    expected["test.report", "dependency_failed", "failed"] = 1
    expected["test.count", "dependency_failed", "failed"] = 1
    assert counted(registry) == expected
    assert await recorded(jobs) == expected
    failed = sum(number for (_, _, outcome), number in expected.items() if outcome == "failed")
    assert await failed_jobs(jobs) == failed


async def test_what_is_not_written_is_not_counted(quiet_jobs: Jobs, principal: Principal) -> None:
    jobs, registry = quiet_jobs, CollectorRegistry()
    jobs.metrics(registry)
    job = await submit(jobs, principal, ECHO)
    worker = worker_of(jobs)
    (old,) = await take(worker, job.id)
    await change(jobs, job.id, lease_expires_at=jobs.database.now() - timedelta(seconds=1))
    await jobs.upkeep.reap()
    once = Counter({(ECHO, "worker_lost", "retrying"): 1})
    assert counted(registry) == once
    assert await worker.fail(old, failure(job.id), final=True) == (None, None)
    await jobs.upkeep.reap()
    assert counted(registry) == once, "a word that comes too late, and a round that finds nothing"
    (new,) = await take(worker, job.id)
    with pytest.raises(ConnectionError):
        async with interrupted(jobs):
            await worker.fail(new, failure(job.id), final=True)
    assert counted(registry) == once, "rolled back"
    await worker.fail(new, failure(job.id), final=True)
    assert counted(registry) == once + Counter({HANDLER_FAILED: 1}) == await recorded(jobs)


@asynccontextmanager
async def interrupted(jobs: Jobs) -> AsyncIterator[None]:
    """The database goes away after the last statement of each transaction, before its commit."""
    usual = jobs.database.session

    @asynccontextmanager
    async def breaking() -> AsyncIterator[object]:
        async with usual() as session:
            yield session
            raise ConnectionError("gone")

    jobs.database.session = breaking  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        jobs.database.session = usual  # type: ignore[method-assign]


async def test_a_worker_and_a_service_together_count_what_the_record_says(
    settings: JobSettings, jobs: Jobs, principal: Principal
) -> None:
    here, there = CollectorRegistry(), CollectorRegistry()
    jobs.metrics(here)
    bad = {
        "test.exit": {},
        "test.killed": {},
        "test.refuse": {},
        "test.short": {},
        "test.list_result": {},
        "test.stumble": {"times": 99},
    }
    first = [await submit(jobs, principal, kind, parameters=given) for kind, given in bad.items()]
    last = [await submit(jobs, principal, ECHO, depends_on=[job.id]) for job in first]
    stopped = await submit(jobs, principal, ECHO, not_before=jobs.database.now() + timedelta(hours=1))
    last.append(await submit(jobs, principal, ECHO, depends_on=[stopped.id]))
    good = await submit(jobs, principal, "test.stumble", parameters={"times": 1})
    await jobs.cancel(principal, stopped.id)
    async with running_worker(settings, ["test"], concurrency=2, registry=there):
        for job in (*first, *last, good):
            await wait_for(jobs, principal, job.id)
    ends = counted(here, there)
    assert ends == await recorded(jobs)
    assert ends[ECHO, "dependency_failed", "failed"] == len(last)
    assert ends["test.stumble", "handler_error", "retrying"] == 3
    assert ends["test.stumble", "handler_error", "failed"] == 1
    failed = sum(number for (_, _, outcome), number in ends.items() if outcome == "failed")
    assert failed == await failed_jobs(jobs) == len(first) + len(last)
