"""A client that loses its connection again and again still gets every event once."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.chaos.jobs.api import PREFIX
from tests.chaos.jobs.faults import PostgresCut, SqliteCut
from tests.chaos.jobs.stage import Stage, set_stage
from tests.chaos.jobs.test_faults import read_record

DISCONNECTS = 20
REPORTS = 120


async def read_some(stage: Stage, job_id: str, last: int, limit: int) -> list[tuple[int, dict[str, Any]]]:
    """Up to `limit` events after `last`; then the connection is dropped in the middle of the stream."""
    seen = []
    headers = {**stage._headers({}), "Last-Event-ID": str(last)}
    async with stage.client.stream("GET", f"{PREFIX}/{job_id}/events", headers=headers) as answer:
        if answer.status_code == 204:
            return []
        assert answer.status_code == 200
        number = 0
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                number = int(line.removeprefix("id: "))
            elif line.startswith("data: "):
                seen.append((number, json.loads(line.removeprefix("data: "))))
                if len(seen) == limit:
                    break
    return seen


@pytest.mark.parametrize(
    ("database", "redis_dies"),
    [("sqlite", False), ("sqlite", True), ("postgresql", True)],
    indirect=["database"],
)
async def test_twenty_disconnects_miss_nothing(
    tmp_path: Path, database: SqliteCut | PostgresCut, redis_dies: bool
) -> None:
    chance = random.Random(7)
    async with set_stage(tmp_path, database, workers=1, concurrency=1) as stage:
        job_id = await stage.submit("chaos.talk", {"reports": REPORTS}, "key")
        seen: list[tuple[int, dict[str, Any]]] = []
        connections = 0
        while not seen or seen[-1][1]["type"] != "succeeded":
            connections += 1
            # The last connection stays until the stream ends by itself.
            limit = chance.randint(1, 5) if connections <= DISCONNECTS else 10_000
            try:
                seen += await read_some(stage, job_id, seen[-1][0] if seen else 0, limit)
            except httpx.TransportError as error:
                raise AssertionError(f"the API went away: {error}") from error
            if redis_dies and connections == DISCONNECTS // 2:
                await stage.redis.restart(keep_data=False, away_seconds=1.0)
        assert await read_some(stage, job_id, seen[-1][0], 1) == []
        record = await read_record(database.url)
    written = [(event.sequence, event.type) for event in record.history[job_id]]
    assert [(number, event["type"]) for number, event in seen] == written
    assert connections > DISCONNECTS
    told = [event["data"]["message"] for _, event in seen if event["type"] == "progress"]
    assert told == [f"report {number}" for number in range(REPORTS)]
