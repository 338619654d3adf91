"""Every two seconds something dies; at the end every job has succeeded once, and nothing was done in vain.

The usual run is small and on the embedded parts; the slow one is the full size, on SQLite and PostgreSQL.
Both print a table of what was done to the queue and how long it took to recover.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import shutil
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from shared.database import utc_now
from shared.jobs.store import JobDatabase, events, jobs
from tests.chaos.jobs.faults import PostgresCut, SqliteCut
from tests.chaos.jobs.stage import Stage, set_stage

EVERY_SECONDS = 2.0
CUT_SECONDS = 3.0
FAULTS = (
    "kill worker",
    "restart redis, data kept",
    "kill worker",
    "restart api",
    "restart redis, data lost",
    "cut database 3 s",
)
WAITING = ("queued", "retrying", "handed_back")
ENDS = ("succeeded", "retrying", "handed_back", "failed", "cancelled")
STATE_EVENTS = frozenset({"queued", "started", *ENDS})


@dataclass
class Injected:
    """One fault: when it was over, and for a worker who it was."""

    kind: str
    over: datetime
    worker: str | None = None


@dataclass
class Record:
    """What the database and the ledgers say at the end."""

    states: dict[str, str]
    history: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))

    def starts(self) -> list[tuple[datetime, str, str]]:
        """Every start of an attempt: when, which job, which worker."""
        return sorted(
            (event.at, job_id, event.data["worker"])
            for job_id, history in self.history.items()
            for event in history
            if event.type == "started"
        )


async def inject(stage: Stage, done: asyncio.Event) -> list[Injected]:
    """Hurt the stage every two seconds until `done`, each kind in its turn.

    What has not come back yet is not killed again: another kind takes that turn. The database is away
    for longer than two seconds, so the next fault falls into the cut.
    """
    injected: list[Injected] = []
    cuts: list[asyncio.Task[Injected]] = []
    at = time.monotonic()
    for kind in itertools.cycle(FAULTS):
        if kind == "cut database 3 s":
            cuts.append(asyncio.create_task(_cut(stage, kind)))
        elif (fault := await _hurt(stage, kind)) is not None:
            injected.append(fault)
        else:
            continue
        at = max(at + EVERY_SECONDS, time.monotonic())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(done.wait(), at - time.monotonic())
        if done.is_set():
            return injected + list(await asyncio.gather(*cuts))
    raise AssertionError("unreachable")


async def _cut(stage: Stage, kind: str) -> Injected:
    await stage.database.cut(CUT_SECONDS)
    return Injected(kind, utc_now())


async def _hurt(stage: Stage, kind: str) -> Injected | None:
    """Inject one fault; None when its victim is still on its way up.

    What could not start while the database was cut is started again, as a process manager does.
    """
    for process in (stage.api, *stage.workers):
        if process.has_ended:
            await process.start()
    if kind == "kill worker":
        up = [worker for worker in stage.workers if worker.worker_id() is not None]
        if not up:
            return None
        worker = min(up, key=lambda worker: worker.starts)
        worker_id = worker.worker_id()
        await worker.kill()
        over = utc_now()
        await worker.start()
        return Injected(kind, over, worker_id)
    if kind == "restart api":
        if not await stage.is_up():
            return None
        await stage.api.kill()
        await stage.api.start()
    else:
        await stage.redis.restart(keep_data=kind.endswith("kept"))
    return Injected(kind, utc_now())


async def run_jobs(stage: Stage, folder: Path, count: int, pause: float, limit_seconds: float) -> list[str]:
    """Queue `count` jobs over the API while it is being hurt, and wait until none is left."""

    async def queue(numbers: range) -> list[str]:
        return [
            await stage.submit("chaos.steps", {"folder": str(folder), "pause": pause}, f"key-{number}")
            for number in numbers
        ]

    parts = [range(start, count, 4) for start in range(4)]
    ids = [job_id for part in await asyncio.gather(*(queue(part) for part in parts)) for job_id in part]
    end = time.monotonic() + limit_seconds
    while left := await stage.unfinished():
        assert time.monotonic() < end, f"{left} or more jobs are not finished after {limit_seconds} s"
        await asyncio.sleep(0.5)
    return ids


async def read_record(url: str) -> Record:
    """States and events of every job."""
    database = JobDatabase(url)
    async with database.reading() as session:
        record = Record({row.id: row.state for row in await session.execute(select(jobs.c.id, jobs.c.state))})
        for event in await session.execute(select(events).order_by(events.c.job_id, events.c.sequence)):
            record.history[event.job_id].append(event)
    await database.close()
    return record


def check_effects(record: Record, ids: list[str], folder: Path) -> dict[str, int]:
    """Assert that every job succeeded once and no saved step was done again; what was repeated lawfully."""
    assert len(set(ids)) == len(ids)
    assert record.states.keys() == set(ids), "a job was lost, or queued twice"
    assert set(record.states.values()) == {"succeeded"}
    counts = {"steps done": 0, "steps repeated before their checkpoint": 0, "effects absorbed": 0}
    for job_id in ids:
        history = record.history[job_id]
        assert [event.sequence for event in history] == list(range(1, len(history) + 1))
        assert [event.type for event in history].count("succeeded") == 1
        assert (folder / f"{job_id}.effect").exists()
        saved, done = -1, set()
        for line in (folder / f"{job_id}.ledger").read_text().splitlines():
            if line == "effect-absorbed":
                counts["effects absorbed"] += 1
                continue
            word, step, _attempt = line.split()
            if word == "saved":
                saved = max(saved, int(step))
                continue
            assert int(step) > saved, f"{job_id} did step {step} again after saving step {saved}"
            counts["steps done"] += 1
            counts["steps repeated before their checkpoint"] += int(step) in done
            done.add(int(step))
        assert done == set(range(4))
    assert len(list(folder.glob("*.effect"))) == len(ids)
    return counts


def recovery_seconds(record: Record, fault: Injected) -> list[float]:
    """How long each job that a kill hit took to run again; for other faults, until anything started.

    The latter only where a job was waiting: with an empty queue nothing starts, however well all is.
    """
    if fault.worker is None:
        if not any(_waited(history, fault.over) for history in record.history.values()):
            return []
        after = [at for at, _, _ in record.starts() if at >= fault.over]
        return [(after[0] - fault.over).total_seconds()] if after else []
    waits = []
    for history in record.history.values():
        # A start may be committed while the kill is on its way.
        before: list[Any] = [event for event in history if event.at <= fault.over + timedelta(seconds=0.05)]
        later: list[Any] = [event for event in history if event.at > fault.over + timedelta(seconds=0.05)]
        starts = [event for event in before if event.type == "started"]
        if not starts or starts[-1].data["worker"] != fault.worker:
            continue
        if any(event.type in ENDS and event.sequence > starts[-1].sequence for event in before):
            continue
        again = [event for event in later if event.type == "started"]
        if again:
            waits.append((again[0].at - fault.over).total_seconds())
    return waits


def _waited(history: list[Any], moment: datetime) -> bool:
    """Whether a job was in the queue at `moment`."""
    before = [event.type for event in history if event.at <= moment and event.type in STATE_EVENTS]
    return bool(before) and before[-1] in WAITING


def table(injected: list[Injected], record: Record, counts: dict[str, int], seconds: float) -> str:
    """What was done and how it was survived."""
    lines = ["| fault | times | jobs hit | recovery median s | recovery worst s |", "|---|---|---|---|---|"]
    for kind in dict.fromkeys(FAULTS):
        faults = [fault for fault in injected if fault.kind == kind]
        waits = sorted(wait for fault in faults for wait in recovery_seconds(record, fault))
        hit = str(len(waits)) if kind == "kill worker" else "-"
        figures = (f"{waits[len(waits) // 2]:.1f}", f"{waits[-1]:.1f}") if waits else ("-", "-")
        lines.append(f"| {kind} | {len(faults)} | {hit} | {figures[0]} | {figures[1]} |")
    starts = len(record.starts())
    lines.append(
        f"\n{len(record.states)} jobs, all succeeded, {len(injected)} faults in {seconds:.0f} s; "
        f"{starts} attempts; " + ", ".join(f"{count} {name}" for name, count in counts.items())
    )
    return "\n".join(lines)


async def survive(
    tmp_path: Path,
    database: SqliteCut | PostgresCut,
    *,
    count: int,
    limit_seconds: float,
    pause: float = 0.25,
    **options: Any,
) -> None:
    """The whole experiment."""
    folder = tmp_path / "ledgers"
    folder.mkdir()
    async with set_stage(tmp_path, database, workers=4, **options) as stage:
        print(f"\n{database.name}, {stage.redis.name}, four workers, steps of {pause} s")
        begun = time.monotonic()
        done = asyncio.Event()
        hurting = asyncio.create_task(inject(stage, done))
        try:
            ids = await run_jobs(stage, folder, count, pause, limit_seconds)
        finally:
            done.set()
        seconds = time.monotonic() - begun
        injected = await hurting
        record = await read_record(database.url)
    counts = check_effects(record, ids, folder)
    print(table(injected, record, counts, seconds))
    assert {fault.kind for fault in injected} == set(FAULTS), "not every kind of fault was injected"
    killed = [wait for fault in injected if fault.worker for wait in recovery_seconds(record, fault)]
    bound = options.get("lease_seconds", 20.0) + 10.0
    assert all(wait < bound for wait in killed), f"a job of a killed worker waited {max(killed):.1f} s"


@pytest.mark.timeout(300)
async def test_sixty_jobs_survive(tmp_path: Path, sqlite_cut: SqliteCut) -> None:
    await survive(tmp_path, sqlite_cut, count=60, limit_seconds=250, lease_seconds=8.0, renew_seconds=2.0)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_five_hundred_jobs_survive_on_embedded_parts(tmp_path: Path, sqlite_cut: SqliteCut) -> None:
    await survive(tmp_path, sqlite_cut, count=500, limit_seconds=800, pause=0.5)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_five_hundred_jobs_survive_on_postgresql_and_redis(
    tmp_path: Path, postgres_cut: PostgresCut
) -> None:
    binary = shutil.which("redis-server")
    await survive(tmp_path, postgres_cut, count=500, limit_seconds=800, pause=0.5, redis_binary=binary)
