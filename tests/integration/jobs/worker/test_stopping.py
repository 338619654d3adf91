"""Stops of every kind: cancel, drain, a lost lease, a killed worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import psutil
import pytest
from sqlalchemy import update

from shared.jobs import Jobs, JobSettings, JobState
from shared.jobs.store import jobs as table
from shared.jobs.supervisor import Supervisor
from shared.jobs.testing import running_worker
from shared.principal import Principal
from tests.integration.jobs.conftest import SettingsFactory, submit, wait_for, wait_until


def is_running(pid: int) -> bool:
    """Whether a process exists and is not merely waiting to be reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def worker_environment(settings: JobSettings) -> dict[str, str]:
    """The variables with which a worker process has these settings."""
    assert settings.redis_url is not None
    return {
        **os.environ,
        "LATTICEWORK_HOME": str(settings.home),
        "LATTICEWORK_REDIS_URL": settings.redis_url.get_secret_value(),
        "LATTICEWORK_JOBS_DATABASE_URL": settings.resolved_jobs_database_url(),
        "LATTICEWORK_PRINCIPAL_SECRET": settings.principal_secret.get_secret_value(),
        "LATTICEWORK_JOBS_MODULES": '["tests.integration.jobs.kinds", "shared.jobs.diagnostics"]',
        "LATTICEWORK_JOBS_LEASE_SECONDS": str(settings.jobs_lease_seconds),
        "LATTICEWORK_JOBS_RENEW_SECONDS": str(settings.jobs_renew_seconds),
        "LATTICEWORK_JOBS_DRAIN_SECONDS": str(settings.jobs_drain_seconds),
    }


async def start_worker(settings: JobSettings) -> asyncio.subprocess.Process:
    """A worker as operators start it."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "shared.jobs.worker", "--pool", "test", "--concurrency", "2"),
        env=worker_environment(settings),
        stderr=asyncio.subprocess.DEVNULL,
    )


async def test_cancel_ends_a_busy_job_and_everything_below_it(
    jobs: Jobs, principal: Principal, worker: Supervisor, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    job = await submit(jobs, principal, "test.busy", parameters={"pids": str(pids)})
    await wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    begun = time.monotonic()
    answer = await jobs.cancel(principal, job.id)
    assert (answer.state, answer.cancelling) == (JobState.running, True)
    done = await wait_for(jobs, principal, job.id)
    took = time.monotonic() - begun
    assert done.state is JobState.cancelled
    assert not done.cancelling
    # The word comes after the deed: no process is left when the state says so.
    assert not any(is_running(int(pid)) for pid in pids.read_text().split())
    # The grace of the kind is 0.5 s.
    assert took < 5.0, took
    types = [event.type async for event in jobs.events(principal, job.id)]
    assert types == ["queued", "started", "cancelling", "cancelled"]
    assert (await jobs.cancel(principal, job.id)).state is JobState.cancelled


async def test_cancel_works_without_redis(
    make_settings: SettingsFactory, principal: Principal, tmp_path: Path
) -> None:
    settings = make_settings(redis_url=None)
    async with Jobs(settings) as jobs, running_worker(settings, ["test"]):
        started = tmp_path / "started"
        job = await submit(jobs, principal, "test.polite", parameters={"started": str(started)})
        await wait_until(started.exists)
        begun = time.monotonic()
        await jobs.cancel(principal, job.id)
        assert (await wait_for(jobs, principal, job.id)).state is JobState.cancelled
        assert time.monotonic() - begun < 5.0
        assert started.read_text() == "cancel"


async def test_a_drained_worker_hands_its_jobs_back(
    settings: JobSettings, jobs: Jobs, principal: Principal, tmp_path: Path
) -> None:
    ledger, started = tmp_path / "ledger", tmp_path / "started"
    worker = await start_worker(settings)
    counting = await submit(
        jobs, principal, "test.count", parameters={"ledger": str(ledger), "steps": 40, "pause": 0.1}
    )
    polite = await submit(jobs, principal, "test.polite", parameters={"started": str(started)})
    await wait_until(lambda: ledger.exists() and started.exists(), 40)
    await asyncio.sleep(0.5)
    begun = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert await worker.wait() == 0
    assert time.monotonic() - begun < settings.jobs_drain_seconds + 10
    for job_id in (counting.id, polite.id):
        job = await jobs.get(principal, job_id)
        assert (job.state, job.attempt, job.problem) == (JobState.queued, 1, None)
    assert started.read_text() == "drain"
    async with running_worker(settings, ["test"], concurrency=2):
        done = await wait_for(jobs, principal, counting.id)
        await jobs.cancel(principal, polite.id)
        await wait_for(jobs, principal, polite.id)
    assert done.result == {"steps": 40, "attempt": 2}
    steps = [int(line.split()[0]) for line in ledger.read_text().splitlines()]
    assert steps == list(range(40)), "a drain loses no step and repeats none"


@pytest.mark.slow
async def test_a_worker_leaves_in_time_even_without_its_database(
    make_settings: SettingsFactory, principal: Principal, tmp_path: Path
) -> None:
    path = tmp_path / "away.db"
    settings = make_settings(jobs_database_url=f"sqlite:///{path}", jobs_lease_seconds=8.0)
    started = tmp_path / "started"
    async with Jobs(settings) as jobs:
        worker = await start_worker(settings)
        job = await submit(jobs, principal, "test.polite", parameters={"started": str(started)})
        await wait_until(started.exists, 40)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as held:
            held.execute("BEGIN EXCLUSIVE")
            begun = time.monotonic()
            worker.send_signal(signal.SIGTERM)
            await asyncio.wait_for(worker.wait(), 30)
            assert time.monotonic() - begun < 30
            held.execute("COMMIT")
        # What could not be handed back is found when its lease is over.
        again = await wait_for(jobs, principal, job.id, JobState.queued)
        assert again.attempt == 1
        assert started.read_text() == "drain"


async def test_a_killed_worker_is_survived_from_the_checkpoint(
    make_settings: SettingsFactory, jobs: Jobs, principal: Principal, tmp_path: Path
) -> None:
    settings = make_settings(jobs_lease_seconds=8.0)
    ledger = tmp_path / "ledger"
    worker = await start_worker(settings)
    job = await submit(
        jobs, principal, "test.count", parameters={"ledger": str(ledger), "steps": 30, "pause": 0.1}
    )
    await wait_until(lambda: ledger.exists() and len(ledger.read_text().splitlines()) > 5, 40)
    worker.kill()
    await worker.wait()
    child = int(ledger.read_text().split()[2])
    await wait_until(lambda: not is_running(child), 5)
    done_before = len(ledger.read_text().splitlines())
    begun = time.monotonic()
    async with running_worker(settings, ["test"]):
        await wait_until(lambda: len(ledger.read_text().splitlines()) > done_before, 30)
        assert time.monotonic() - begun < settings.jobs_lease_seconds + 10
        done = await wait_for(jobs, principal, job.id)
    assert done.result == {"steps": 30, "attempt": 2}
    steps = [int(line.split()[0]) for line in ledger.read_text().splitlines()]
    assert sorted(set(steps)) == list(range(30))
    assert len(steps) <= 31, "only the step that was cut off may have run twice"
    types = [event.type async for event in jobs.events(principal, job.id)]
    assert types.count("retrying") == 1
    assert types[-1] == "succeeded"


async def test_a_worker_waits_for_a_database_that_is_not_there_yet(
    make_settings: SettingsFactory, principal: Principal, tmp_path: Path
) -> None:
    settings = make_settings(jobs_database_url=f"sqlite:///{tmp_path / 'later.db'}")
    blocker = tmp_path / "later.db"
    blocker.mkdir()
    worker = await start_worker(settings)
    await asyncio.sleep(4)
    assert worker.returncode is None
    blocker.rmdir()
    async with Jobs(settings) as jobs:
        job = await submit(jobs, principal, "test.echo")
        assert (await wait_for(jobs, principal, job.id)).state is JobState.succeeded
    worker.send_signal(signal.SIGTERM)
    assert await worker.wait() == 0


async def test_nothing_of_a_job_outlives_its_killed_worker(
    settings: JobSettings, jobs: Jobs, principal: Principal, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    worker = await start_worker(settings)
    await submit(jobs, principal, "test.busy", parameters={"pids": str(pids)})
    await wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, 40)
    worker.kill()
    await worker.wait()
    await wait_until(lambda: not any(is_running(int(pid)) for pid in pids.read_text().split()), 5)


async def test_a_lost_lease_ends_the_process_and_writes_nothing(
    jobs: Jobs, principal: Principal, worker: Supervisor, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    job = await submit(jobs, principal, "test.busy", parameters={"pids": str(pids)})
    await wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    async with jobs.database.session() as session:
        await session.execute(
            update(table).where(table.c.id == job.id).values(attempt=2, lease_owner="worker_of_somebody_else")
        )
    await wait_until(lambda: not any(is_running(int(pid)) for pid in pids.read_text().split()), 10)
    await asyncio.sleep(0.5)
    after = await jobs.get(principal, job.id)
    assert (after.state, after.attempt, after.problem) == (JobState.running, 2, None)
