"""Cancelling running jobs that do not listen: in time, every time, and nothing is left of them."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import psutil
import pytest

from tests.chaos.jobs.api import PREFIX
from tests.chaos.jobs.faults import PostgresCut, SqliteCut
from tests.chaos.jobs.kinds import GRACE_SECONDS
from tests.chaos.jobs.stage import Stage, set_stage

LIMIT_SECONDS = 5.0


def alive(pids: Path) -> list[int]:
    """Those processes of the job that still run."""
    found = []
    for pid in map(int, pids.read_text().split()):
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                found.append(pid)
        except psutil.NoSuchProcess:
            continue
    return found


async def cancel_one(stage: Stage, pids: Path, places: asyncio.Semaphore) -> float:
    """Start a job that computes for ever, cancel it, and see it gone; seconds from the request to the end."""
    async with places:
        job_id = await stage.submit("chaos.stubborn", {"pids": str(pids)}, f"key-{pids.name}")
        while not pids.exists():
            await asyncio.sleep(0.05)
        assert len(alive(pids)) == 2
        begun = time.monotonic()
        answer = await stage.call("POST", f"{PREFIX}/{job_id}/cancel")
        assert answer.status_code == 202, answer.text
        while (job := await stage.get(job_id))["state"] == "running":
            await asyncio.sleep(0.02)
        seconds = time.monotonic() - begun
        assert job["state"] == "cancelled"
        assert alive(pids) == []
        return seconds


async def cancel_many(tmp_path: Path, database: SqliteCut | PostgresCut, count: int) -> None:
    """Cancel `count` jobs, four at a time, and print how long it took."""
    places = asyncio.Semaphore(4)
    async with set_stage(tmp_path, database, workers=2, concurrency=2) as stage:
        jobs = [cancel_one(stage, tmp_path / f"pids-{number}", places) for number in range(count)]
        seconds = sorted(await asyncio.gather(*jobs))
    middle, high = seconds[count // 2], seconds[int(count * 0.99)]
    print(
        f"\n{database.name}: {count} of {count} busy jobs cancelled, no process left; seconds from the "
        f"request to the end, of which {GRACE_SECONDS} is grace: median {middle:.2f}, p99 {high:.2f}, "
        f"worst {seconds[-1]:.2f}"
    )
    assert middle < GRACE_SECONDS + 1.0
    assert seconds[-1] < LIMIT_SECONDS


async def test_ten_of_ten(tmp_path: Path, sqlite_cut: SqliteCut) -> None:
    await cancel_many(tmp_path, sqlite_cut, 10)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("database", ["sqlite", "postgresql"], indirect=True)
async def test_a_hundred_of_a_hundred(tmp_path: Path, database: SqliteCut | PostgresCut) -> None:
    await cancel_many(tmp_path, database, 100)
