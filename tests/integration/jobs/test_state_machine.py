"""The record's rules on both databases: what callers and workers may write, and when."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import select

from shared.database import schema_drift
from shared.idempotency import IdempotencyConflict
from shared.jobs import Job, Jobs, JobState
from shared.jobs.leases import LeaseLost, Report
from shared.jobs.problems import JobFinished, JobNotFound, JobNotRetryable
from shared.jobs.store import jobs as table
from shared.jobs.upkeep import pool_depths
from shared.principal import Principal
from shared.problems import Forbidden, TooManyRequests, Unprocessable
from tests.integration.jobs.conftest import (
    KINDS,
    SettingsFactory,
    change,
    failure,
    submit,
    take,
    worker_of,
)

ECHO = "test.echo"


@pytest.fixture
async def jobs(quiet_jobs: Jobs) -> Jobs:
    """The queue without its background rounds: a test makes each round itself."""
    return quiet_jobs


async def test_the_tables_are_what_the_models_say(jobs: Jobs, database_url: str) -> None:
    assert await schema_drift(database_url, "shared.jobs") == []


async def test_the_same_key_and_body_give_the_same_job(jobs: Jobs, principal: Principal) -> None:
    options: dict[str, Any] = {"parameters": {"a": 1}, "idempotency_key": "key"}
    racing = await asyncio.gather(*(submit(jobs, principal, ECHO, **options) for _ in range(8)))
    assert len({job.id for job in racing}) == 1
    with pytest.raises(IdempotencyConflict):
        await submit(jobs, principal, ECHO, parameters={"a": 2}, idempotency_key="key")
    with pytest.raises(IdempotencyConflict):
        await submit(jobs, principal, ECHO, **options, priority=1)
    other = Principal(key_id="key_2", tenant="other", scopes=frozenset({"sql"}))
    assert (await submit(jobs, other, ECHO, **options)).id != racing[0].id


async def test_only_the_tenant_and_its_scopes_see_a_job(jobs: Jobs, principal: Principal) -> None:
    job = await submit(jobs, principal, ECHO)
    strangers = [
        Principal(key_id="k", tenant="other", scopes=frozenset({"sql"})),
        Principal(key_id="k", tenant="other", scopes=frozenset({"admin"})),
        Principal(key_id="k", tenant="acme", scopes=frozenset({"vision"})),
    ]
    for stranger in strangers:
        for act in (jobs.get, jobs.cancel, jobs.retry):
            with pytest.raises(JobNotFound):
                await act(stranger, job.id)
        with pytest.raises(JobNotFound):
            [event async for event in jobs.events(stranger, job.id)]
        assert await jobs.list(stranger) == ([], None)
    with pytest.raises(Forbidden):
        await submit(jobs, strangers[2], ECHO)
    with pytest.raises(Unprocessable):
        await submit(jobs, strangers[0], ECHO, depends_on=[job.id])
    admin = Principal(key_id="k", tenant="acme", scopes=frozenset({"admin"}))
    assert (await jobs.get(admin, job.id)).id == job.id
    with pytest.raises(JobNotFound):
        await jobs.get(admin, job.id, frozenset({"test.count"}))


async def test_an_older_attempt_can_write_nothing(jobs: Jobs, principal: Principal) -> None:
    job = await submit(jobs, principal, ECHO)
    first_worker, second_worker = worker_of(jobs, "worker_a"), worker_of(jobs, "worker_b")
    (old,) = await take(first_worker, job.id)
    assert await take(second_worker, job.id) == [], "a running job is nobody else's"
    await first_worker.checkpoint(old, 1, {"inline": 1})
    await change(jobs, job.id, lease_expires_at=jobs.database.now() - timedelta(seconds=1))
    await jobs.upkeep.reap()
    (new,) = await take(second_worker, job.id)
    assert (new.attempt, new.checkpoint) == (2, {"inline": 1})
    with pytest.raises(LeaseLost):
        await first_worker.checkpoint(old, 2, {"inline": 99})
    await first_worker.report(old, [(1, Report(0.9, "old"))])
    assert await first_worker.succeed(old, {"from": "old"}) is None
    assert await first_worker.fail(old, failure(job.id), final=True) == (None, None)
    assert await first_worker.hand_back(old) is None
    assert await first_worker.renew() == {}
    running = await jobs.get(principal, job.id)
    assert (running.state, running.progress, running.message) == (JobState.running, 0.0, None)
    assert await second_worker.succeed(new, {"from": "new"}) == "succeeded"
    assert (await jobs.get(principal, job.id)).result == {"from": "new"}


async def test_two_workers_never_take_the_same_job(jobs: Jobs, principal: Principal) -> None:
    ids = [(await submit(jobs, principal, ECHO)).id for _ in range(20)]
    workers = [worker_of(jobs, f"worker_{number}") for number in range(4)]
    taken = await asyncio.gather(*(take(worker, *ids) for worker in workers))
    assert sorted(lease.job_id for leases in taken for lease in leases) == sorted(ids)


async def test_repeating_a_report_changes_nothing(jobs: Jobs, principal: Principal) -> None:
    worker = worker_of(jobs)
    job = await submit(jobs, principal, ECHO)
    (lease,) = await take(worker, job.id)
    first, second = (1, Report(0.1, "one", {"loss": 2.0})), (2, Report(0.2, "two", {"rate": 1}))
    await worker.report(lease, [first])
    await worker.report(lease, [first])
    await worker.report(lease, [first, second])
    await worker.succeed(lease, {})
    events = [event async for event in jobs.events(principal, job.id)]
    assert [event.data.get("message") for event in events if event.type == "progress"] == ["one", "two"]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert (await jobs.get(principal, job.id)).metrics == {"loss": 2.0, "rate": 1}


async def test_retries_end_with_the_problem_and_checkpoints_forgive(jobs: Jobs, principal: Principal) -> None:
    worker = worker_of(jobs)
    job = await submit(jobs, principal, ECHO)
    for attempt in range(1, 7):
        await change(jobs, job.id, available_at=jobs.database.now())
        (lease,) = await take(worker, job.id)
        assert lease.attempt == attempt
        if attempt == 3:
            await worker.checkpoint(lease, 1, {"inline": attempt})
        state, _ = await worker.fail(lease, failure(job.id), final=False)
        # Two attempts fail, the checkpoint in the third forgives them, then three in a row are too many.
        assert state == ("failed" if attempt == 5 else "queued")
        if state == "failed":
            break
    dead = await jobs.get(principal, job.id)
    assert dead.problem is not None
    assert (dead.state, dead.attempt, dead.problem.detail) == (JobState.failed, 5, "no luck")
    assert dead.expires_at is not None
    assert dead.expires_at - jobs.database.now() > timedelta(days=29)
    again = await jobs.retry(principal, job.id)
    assert (again.state, again.problem) == (JobState.queued, None)
    (lease,) = await take(worker, job.id)
    assert (lease.attempt, lease.checkpoint) == (6, {"inline": 3})


async def test_a_pause_lies_between_attempts(jobs: Jobs, principal: Principal) -> None:
    worker = worker_of(jobs)
    job = await submit(jobs, principal, ECHO)
    (lease,) = await take(worker, job.id)
    await worker.fail(lease, failure(job.id), final=False, after_s=30.0)
    assert await take(worker, job.id) == []
    assert await worker.due(["test"], KINDS, 10) == []


async def test_a_worker_that_went_is_noticed_until_attempts_run_out(jobs: Jobs, principal: Principal) -> None:
    job = await submit(jobs, principal, ECHO)
    registry = CollectorRegistry()
    jobs.metrics(registry)
    for number in range(3):
        await take(worker_of(jobs, f"worker_{number}", seconds=-1.0), job.id)
        await jobs.upkeep.reap()
    for outcome, times in {"retrying": 2, "failed": 1}.items():
        counted = {"kind": ECHO, "code": "worker_lost", "outcome": outcome}
        assert registry.get_sample_value("latticework_job_failures_total", counted) == times
    dead = await jobs.get(principal, job.id)
    assert dead.problem is not None
    assert (dead.state, dead.problem.code, dead.attempt) == (JobState.failed, "worker_lost", 3)
    cancelled = await submit(jobs, principal, ECHO)
    await take(worker_of(jobs, "worker_x", seconds=-1.0), cancelled.id)
    await jobs.cancel(principal, cancelled.id)
    await jobs.upkeep.reap()
    assert (await jobs.get(principal, cancelled.id)).state is JobState.cancelled


async def test_renewing_keeps_jobs_and_tells_of_cancels(jobs: Jobs, principal: Principal) -> None:
    worker = worker_of(jobs)
    kept, stopped = [(await submit(jobs, principal, ECHO)).id for _ in range(2)]
    await take(worker, kept, stopped)
    await jobs.cancel(principal, stopped)
    assert await worker.renew() == {kept: (1, False), stopped: (1, True)}
    assert await worker.to_cancel() == [stopped]
    lease = (await take(worker_of(jobs, "worker_b"), kept, stopped)) or None
    assert lease is None


async def test_cancelling_wins_over_a_result_that_comes_later(jobs: Jobs, principal: Principal) -> None:
    worker = worker_of(jobs)
    job = await submit(jobs, principal, ECHO)
    (lease,) = await take(worker, job.id)
    await jobs.cancel(principal, job.id)
    assert await worker.succeed(lease, {"too": "late"}) == "cancelled"
    with pytest.raises(JobNotRetryable):
        await jobs.retry(principal, (await submit(jobs, principal, ECHO)).id)


async def test_finished_jobs_cannot_be_cancelled(jobs: Jobs, principal: Principal) -> None:
    worker = worker_of(jobs)
    job = await submit(jobs, principal, ECHO)
    (lease,) = await take(worker, job.id)
    await worker.succeed(lease, {})
    with pytest.raises(JobFinished):
        await jobs.cancel(principal, job.id)


async def test_dependencies_release_or_fail_what_waits(jobs: Jobs, principal: Principal) -> None:
    worker = worker_of(jobs)
    one, two = await submit(jobs, principal, ECHO), await submit(jobs, principal, ECHO)
    both = await submit(jobs, principal, ECHO, depends_on=[one.id, two.id])
    last = await submit(jobs, principal, ECHO, depends_on=[both.id])
    assert (both.waiting_on, both.depends_on) == (2, sorted([one.id, two.id]))
    assert await take(worker, both.id, last.id) == []
    (lease,) = await take(worker, one.id)
    await worker.succeed(lease, {"n": 1})
    assert (await jobs.get(principal, both.id)).waiting_on == 1
    (lease,) = await take(worker, two.id)
    await worker.fail(lease, failure(two.id), final=True)
    for waiting in (both, last):
        failed = await jobs.get(principal, waiting.id)
        assert failed.problem is not None
        assert (failed.state, failed.problem.code) == (JobState.failed, "dependency_failed")
    with pytest.raises(JobNotRetryable):
        await jobs.retry(principal, both.id)
    with pytest.raises(Unprocessable):
        await submit(jobs, principal, ECHO, depends_on=[two.id])
    await jobs.retry(principal, two.id)
    assert (await jobs.retry(principal, both.id)).waiting_on == 1
    (lease,) = await take(worker, two.id)
    await worker.succeed(lease, {"n": 2})
    (lease,) = await take(worker, both.id)
    assert lease.dependencies == {one.id: {"n": 1}, two.id: {"n": 2}}


async def test_order_is_priority_then_age(jobs: Jobs, principal: Principal) -> None:
    priorities = [0, 5, -5, 5, 0]
    made = [await submit(jobs, principal, ECHO, priority=priority) for priority in priorities]
    expected = [made[place].id for place in (1, 3, 0, 4, 2)]
    assert await jobs._transport.take(["test"], 5, 1.0) == expected
    assert await worker_of(jobs).due(["test"], KINDS, 5) == expected


async def test_a_job_that_lost_its_worker_goes_to_the_head(jobs: Jobs, principal: Principal) -> None:
    made = [(await submit(jobs, principal, ECHO)).id for _ in range(3)]
    assert await jobs._transport.take(["test"], 1, 1.0) == made[:1]
    await take(worker_of(jobs, seconds=-1.0), made[0])
    await jobs.upkeep.once()
    assert await jobs._transport.take(["test"], 3, 1.0) == made


async def test_the_outbox_survives_the_death_of_the_submitter(
    make_settings: SettingsFactory, jobs: Jobs, principal: Principal
) -> None:
    dead_before_redis = Jobs(make_settings(redis_url=None))
    job = await submit(dead_before_redis, principal, ECHO)
    await dead_before_redis.database.close()
    assert await jobs._transport.take(["test"], 1, 0.1) == []
    await jobs.upkeep.relay()
    assert await jobs._transport.take(["test"], 1, 0.1) == [job.id]


async def test_waiting_for_a_time_or_a_pause_is_announced_when_due(jobs: Jobs, principal: Principal) -> None:
    later = jobs.database.now() + timedelta(hours=1)
    job = await submit(jobs, principal, ECHO, not_before=later)
    await jobs.upkeep.relay()
    assert await jobs._transport.take(["test"], 1, 0.1) == []
    await change(jobs, job.id, available_at=jobs.database.now())
    await jobs.upkeep.relay()
    assert await jobs._transport.take(["test"], 1, 0.1) == [job.id]


async def test_a_redis_without_its_data_is_told_everything_again(jobs: Jobs, principal: Principal) -> None:
    ids = {(await submit(jobs, principal, ECHO)).id for _ in range(3)}
    await jobs.upkeep.once()
    await jobs._transport._client.flushall()
    await jobs.upkeep.once()
    assert set(await jobs._transport.take(["test"], 9, 0.1)) == ids
    assert jobs.upkeep.counts.redis_losses == 1


async def test_a_job_taken_from_redis_and_never_leased_is_remembered(
    jobs: Jobs, principal: Principal
) -> None:
    job = await submit(jobs, principal, ECHO)
    await jobs.upkeep.once()
    assert await jobs._transport.take(["test"], 1, 0.1) == [job.id]
    await jobs.upkeep.remember_forgotten()
    assert await jobs._transport.take(["test"], 1, 0.1) == [], "too early to say that it is forgotten"
    await change(jobs, job.id, announced_at=jobs.database.now() - timedelta(seconds=60))
    await jobs.upkeep.remember_forgotten()
    assert await jobs._transport.take(["test"], 1, 0.1) == [job.id]


async def test_deadlines_end_waiting_jobs(jobs: Jobs, principal: Principal) -> None:
    soon = jobs.database.now() + timedelta(seconds=0.3)
    job = await submit(jobs, principal, ECHO, deadline=soon)
    with pytest.raises(Unprocessable):
        await submit(jobs, principal, ECHO, deadline=jobs.database.now() - timedelta(seconds=1))
    await asyncio.sleep(0.4)
    assert await take(worker_of(jobs), job.id) == []
    await jobs.upkeep.end_overdue()
    late = await jobs.get(principal, job.id)
    assert late.problem is not None
    assert (late.state, late.problem.code) == (JobState.failed, "deadline_exceeded")
    with pytest.raises(JobNotRetryable):
        await jobs.retry(principal, job.id)


async def test_old_results_are_deleted_with_their_events(jobs: Jobs, principal: Principal) -> None:
    worker = worker_of(jobs)
    old, young = await submit(jobs, principal, ECHO), await submit(jobs, principal, ECHO)
    for lease in await take(worker, old.id, young.id):
        await worker.succeed(lease, {})
    await change(jobs, old.id, expires_at=jobs.database.now() - timedelta(seconds=1))
    await jobs.upkeep.expire()
    with pytest.raises(JobNotFound):
        await jobs.get(principal, old.id)
    assert not await jobs.has_events(old.id, 0)
    assert (await jobs.get(principal, young.id)).state is JobState.succeeded


async def test_a_tenant_cannot_queue_without_bound(
    make_settings: SettingsFactory, jobs: Jobs, principal: Principal
) -> None:
    bounded = Jobs(make_settings(jobs_max_queued=3))
    for _ in range(3):
        await submit(bounded, principal, ECHO)
    with pytest.raises(TooManyRequests) as refused:
        await submit(bounded, principal, ECHO)
    assert refused.value.headers["Retry-After"] == "30"
    other = Principal(key_id="key_2", tenant="other", scopes=frozenset({"sql"}))
    await submit(bounded, other, ECHO)
    await bounded._transport.close()
    await bounded.database.close()


async def test_lists_are_pages_newest_first(jobs: Jobs, principal: Principal) -> None:
    made: list[Job] = [await submit(jobs, principal, ECHO) for _ in range(5)]
    await jobs.cancel(principal, made[0].id)
    seen, cursor = [], None
    while True:
        page, cursor = await jobs.list(principal, cursor=cursor, limit=2)
        seen += [job.id for job in page]
        if cursor is None:
            break
    assert seen == [job.id for job in reversed(made)]
    cancelled, _ = await jobs.list(principal, states=[JobState.cancelled])
    assert [job.id for job in cancelled] == [made[0].id]
    assert await jobs.list(principal, kinds=["test.count"]) == ([], None)


async def test_depths_tell_what_waits_and_for_how_long(jobs: Jobs, principal: Principal) -> None:
    first, second = await submit(jobs, principal, ECHO), await submit(jobs, principal, ECHO)
    await take(worker_of(jobs), second.id)
    await change(jobs, first.id, available_at=jobs.database.now() - timedelta(seconds=90))
    (depth,) = await pool_depths(jobs.database)
    assert (depth.pool, depth.queued, depth.running) == ("test", 1, 1)
    assert 89 < depth.oldest_s < 100


async def test_the_principal_of_the_job_is_kept(jobs: Jobs, principal: Principal) -> None:
    spender = Principal("key_9", "acme", frozenset({"sql", "model"}), "req_9", "budget_1")
    job = await submit(jobs, spender, ECHO)
    (lease,) = await take(worker_of(jobs), job.id)
    assert lease.principal == spender
    async with jobs.database.reading() as session:
        assert await session.scalar(select(table.c.tenant).where(table.c.id == job.id)) == "acme"
