"""A queue with real parts: SQLite and PostgreSQL, a real Redis, a real worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from shared.jobs import Job, Jobs, JobSettings, JobState
from shared.jobs.leases import Lease, Leases
from shared.jobs.problems import HandlerError
from shared.jobs.store import jobs as table
from shared.jobs.supervisor import Supervisor
from shared.jobs.testing import running_worker
from shared.jobs.transitions import problem_of
from shared.principal import Principal
from tests.conftest import SECRET
from tests.integration.jobs.kinds import HANDLERS

MODULE = "tests.integration.jobs.kinds"
KINDS = list(HANDLERS)

SettingsFactory = Callable[..., JobSettings]


@pytest.fixture
def principal() -> Principal:
    """Somebody who may queue the kinds of these tests."""
    return Principal(key_id="key_1", tenant="acme", scopes=frozenset({"sql"}), request_id="req_1")


@pytest.fixture
def make_settings(tmp_path: Path, database_url: str, redis_url: str) -> SettingsFactory:
    """Settings with quick renewals, to be varied."""

    def make(**changes: Any) -> JobSettings:
        values: dict[str, Any] = {
            "home": tmp_path,
            "redis_url": redis_url,
            "jobs_database_url": database_url,
            "principal_secret": SECRET,
            "jobs_modules": [MODULE, "shared.jobs.diagnostics"],
            "jobs_lease_seconds": 20.0,
            "jobs_renew_seconds": 1.0,
            "jobs_drain_seconds": 5.0,
            "log_format": "text",
            **changes,
        }
        return JobSettings(**values)

    return make


@pytest.fixture
def settings(make_settings: SettingsFactory) -> JobSettings:
    """The usual settings."""
    return make_settings()


@pytest.fixture
async def jobs(settings: JobSettings) -> AsyncIterator[Jobs]:
    """The queue as a service holds it."""
    async with Jobs(settings) as queue:
        yield queue


@pytest.fixture
async def quiet_jobs(settings: JobSettings) -> AsyncIterator[Jobs]:
    """The queue without its background rounds: a test makes each round itself."""
    queue = Jobs(settings)
    await queue.database.prepare()
    yield queue
    await queue._transport.close()
    await queue.database.close()


def worker_of(jobs: Jobs, name: str = "worker_a", seconds: float = 20.0) -> Leases:
    """The leases of a worker that exists only here."""
    return Leases(jobs.database, name, lease_seconds=seconds, failed_kept=timedelta(days=30))


async def take(worker: Leases, *job_ids: str) -> list[Lease]:
    """Begin attempts."""
    return await worker.take(job_ids, KINDS)


async def change(jobs: Jobs, job_id: str, **values: Any) -> None:
    """What time does, at once."""
    async with jobs.database.session() as session:
        await session.execute(update(table).where(table.c.id == job_id).values(**values))


def failure(job_id: str) -> dict[str, Any]:
    """A problem as it is kept."""
    return problem_of(job_id, HandlerError("no luck"))


async def submit(jobs: Jobs, principal: Principal, kind: str, /, **options: Any) -> Job:
    """Queue one of the test kinds; `parameters` is one of the options."""
    parameters = options.pop("parameters", {})
    return await jobs.submit(principal, HANDLERS, kind, parameters, **options)


async def wait_for(
    jobs: Jobs, principal: Principal, job_id: str, *states: JobState, seconds: float = 60.0
) -> Job:
    """The job once it is in one of `states` (default: any final one)."""
    end = time.monotonic() + seconds
    while True:
        job = await jobs.get(principal, job_id)
        if job.state in states or (not states and job.state.is_final):
            return job
        assert time.monotonic() < end, f"still {job.state} after {seconds} s: {job}"
        await asyncio.sleep(0.05)


@pytest.fixture
async def worker(settings: JobSettings, jobs: Jobs) -> AsyncIterator[Supervisor]:
    """A worker with two places."""
    async with running_worker(settings, ["test"], concurrency=2) as supervisor:
        yield supervisor


async def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for something outside the queue."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not so within {seconds} s"
        await asyncio.sleep(0.02)
