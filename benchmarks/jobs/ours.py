"""Our queue under measurement: throughput, latency from submit to start, and depth."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import func, insert, select

from benchmarks.jobs.noop import HANDLERS
from benchmarks.jobs.samples import Latency
from deploy.redis_server import die_with_parent
from shared.database import new_id
from shared.jobs import Jobs, JobSettings, JobState
from shared.jobs.store import events, jobs
from shared.principal import Principal

SECRET = "the-secret-of-the-benchmark-0123456789"
STRANGER = Principal(key_id="key_other", tenant="bench", scopes=frozenset({"sql", "vision"}))
CALLER = Principal(key_id="key_bench", tenant="bench", scopes=frozenset({"admin"}))
WARM_SECONDS = 60.0
SUBMITTERS = 4
BULK = 1000


@asynccontextmanager
async def queue(folder: Path, redis_url: str, database_url: str | None, workers: int) -> AsyncIterator[Jobs]:
    """The queue with `workers` real worker processes of one place each, and nothing in it yet."""
    namespace = f"bench-{secrets.token_hex(4)}"
    values: dict[str, Any] = {
        "home": folder,
        "redis_url": redis_url,
        "principal_secret": SECRET,
        "jobs_database_url": database_url,
        "jobs_modules": ["benchmarks.jobs.noop"],
        "jobs_max_queued": 10_000_000,
        "jobs_namespace": namespace,
        "log_level": "warning",
    }
    settings = JobSettings(**values)
    environment = {
        **os.environ,
        "LATTICEWORK_HOME": str(folder),
        "LATTICEWORK_REDIS_URL": redis_url,
        "LATTICEWORK_PRINCIPAL_SECRET": SECRET,
        "LATTICEWORK_JOBS_DATABASE_URL": settings.resolved_jobs_database_url(),
        "LATTICEWORK_JOBS_MODULES": '["benchmarks.jobs.noop"]',
        "LATTICEWORK_JOBS_NAMESPACE": namespace,
        "LATTICEWORK_LOG_LEVEL": "error",
    }
    processes = start_workers(environment, workers)
    try:
        async with Jobs(settings) as held:
            yield held
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start_workers(environment: dict[str, str], count: int) -> list[subprocess.Popen[bytes]]:
    """Worker processes of one place each."""
    command = [sys.executable, "-m", "shared.jobs.worker", "--pool", "bench"]
    return [
        subprocess.Popen(command, env=environment, start_new_session=True, preexec_fn=die_with_parent)
        for _ in range(count)
    ]


async def run_many(held: Jobs, kind: str, count: int) -> None:
    """Queue `count` jobs from several tasks and wait until all have succeeded."""

    async def some(number: int) -> None:
        for _ in range(number):
            await held.submit(CALLER, HANDLERS, kind, {})

    before = await _succeeded(held)
    await asyncio.gather(*(some(count // SUBMITTERS) for _ in range(SUBMITTERS)))
    while await _succeeded(held) < before + count // SUBMITTERS * SUBMITTERS:
        await asyncio.sleep(0.02)


async def _succeeded(held: Jobs) -> int:
    async with held.database.reading() as session:
        statement = select(func.count()).where(
            jobs.c.tenant == CALLER.tenant, jobs.c.state == JobState.succeeded.value
        )
        return int(await session.scalar(statement) or 0)


async def throughput(held: Jobs, kind: str, count: int, workers: int) -> float:
    """Jobs per second, from the first submit to the last success, once every worker is warm."""
    await run_many(held, kind, 4 * workers)
    begun = time.perf_counter()
    await run_many(held, kind, count)
    return count / (time.perf_counter() - begun)


async def start_latency(held: Jobs, kind: str, count: int, pause: float) -> Latency:
    """Seconds from the call of submit to the first line of the handler, the queue being idle."""
    await run_many(held, kind, 8)
    seconds = []
    for _ in range(count):
        await asyncio.sleep(pause)
        begun = time.time()
        job = await held.submit(CALLER, HANDLERS, kind, {})
        while not (job := await held.get(CALLER, job.id)).state.is_final:
            await asyncio.sleep(0.01)
        assert job.result is not None
        seconds.append(job.result["at"] - begun)
    return Latency.of(seconds)


async def fill(held: Jobs, count: int) -> None:
    """Put `count` waiting jobs into the tables, as submit would have, in large pieces.

    Returns when Redis has been told of them: the relay's work is not measured as if it were a submit's.
    """
    template = await held.submit(CALLER, HANDLERS, "bench.kept", {})
    async with held.database.reading() as session:
        row = dict((await session.execute(select(jobs).where(jobs.c.id == template.id))).mappings().one())
    for start in range(0, count, BULK):
        rows = [{**row, "id": new_id("job")} for _ in range(min(BULK, count - start))]
        told = [
            {"job_id": each["id"], "sequence": 1, "type": "queued", "at": each["created_at"], "data": {}}
            for each in rows
        ]
        async with held.database.session() as session:
            await session.execute(insert(jobs), rows)
            await session.execute(insert(events), told)
    while await _unannounced(held):
        await asyncio.sleep(0.5)


async def _unannounced(held: Jobs) -> bool:
    async with held.database.reading() as session:
        statement = select(jobs.c.id).where(
            jobs.c.state == JobState.queued.value, jobs.c.announced_at.is_(None)
        )
        return await session.scalar(statement.limit(1)) is not None


async def at_depth(held: Jobs, samples: int) -> dict[str, Latency]:
    """Seconds of one submit and of one page of a list, with whatever waits in the queue.

    The lists: the newest 50, the newest 50 that failed (there are none), and what a caller sees whose
    scopes are those of other kinds (nothing).
    """
    seconds: dict[str, list[float]] = {
        "submit": [],
        "list 50": [],
        "list failed": [],
        "list, other scope": [],
    }
    for _ in range(samples):
        calls = {
            "submit": held.submit(CALLER, HANDLERS, "bench.kept", {}),
            "list 50": held.list(CALLER, limit=50),
            "list failed": held.list(CALLER, limit=50, states=[JobState.failed]),
            "list, other scope": held.list(STRANGER, limit=50),
        }
        for name, call in calls.items():
            begun = time.perf_counter()
            await call
            seconds[name].append(time.perf_counter() - begun)
    return {name: Latency.of(values) for name, values in seconds.items()}
