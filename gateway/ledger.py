"""From the stream of settlements in Redis to sums in SQL, and back when Redis lost its counters.

Any number of processes may write: the cursor in SQL moves in the transaction that adds the sums, so
each settlement counts exactly once. Entries leave Redis only after they are in SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import Any, cast

import orjson
from redis import asyncio as redis
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from gateway.keys import Key
from gateway.limits import scripts
from gateway.store import AMOUNTS, DIMENSIONS, UsageStore
from shared.problems import ServiceUnavailable
from shared.redis_pipe import RedisDown, RedisPipe, RedisRefused
from shared.telemetry import logger

log = logger(__name__)

BATCH = 5000
TRIES = 20

Entry = tuple[bytes, dict[bytes, bytes]]


class Ledger:
    """Writes settled usage behind the responses; `every` seconds apart."""

    def __init__(self, pipe: RedisPipe, store: UsageStore, redis_url: str, every: float) -> None:
        self._pipe = pipe
        self._store = store
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=5, socket_connect_timeout=5)
        self._every = every
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._seeding: dict[str, asyncio.Future[None]] = {}

    async def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write what is left and stop. A write under way is not cancelled: it could not be undone."""
        self._stopping.set()
        if self._task is not None:
            await self._task
        try:
            await self.flush()
        except (RedisError, SQLAlchemyError, OSError) as error:
            log.error("usage stays in Redis until the next start", error=str(error))
        await self._redis.aclose()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._every)
                return
            try:
                await self.flush()
            except (RedisError, SQLAlchemyError, OSError) as error:
                log.warning("usage could not be written; it stays in Redis", error=str(error))

    async def flush(self) -> int:
        """Write everything that is in the stream now; how many settlements this process wrote."""
        found = await self._redis.get(scripts.EPOCH)
        if found is None:
            return 0
        epoch = cast(bytes, found).decode()
        written = 0
        while True:
            cursor = await self._store.cursor(epoch)
            read = await self._redis.xrange(scripts.STREAM, min=f"({cursor}", count=BATCH)
            entries = cast(list[Entry], read)
            if entries:
                last_id = entries[-1][0].decode()
                if not await self._store.apply(epoch, cursor, last_id, sums(entries)):
                    continue  # Another process was faster; see what it left.
                cursor = last_id
                written += len(entries)
            if cursor != "0-0":
                await self._redis.xtrim(scripts.STREAM, minid=_after(cursor), approximate=False)
            if len(entries) < BATCH:
                return written

    async def seed(self, key: Key, budget_key: str) -> None:
        """Set the counters of a key's budget from the ledger; one at a time per budget."""
        running = self._seeding.get(budget_key)
        if running is None:
            running = asyncio.ensure_future(self._seed(str(key.budget_id), budget_key))
            self._seeding[budget_key] = running
            running.add_done_callback(lambda _: self._seeding.pop(budget_key, None))
        await asyncio.shield(running)

    async def _seed(self, budget_id: str, budget_key: str) -> None:
        try:
            for _ in range(TRIES):
                if await self.reconcile(budget_id, budget_key):
                    return
        except (RedisError, RedisDown, RedisRefused, SQLAlchemyError, OSError) as error:
            raise ServiceUnavailable(
                "The budget cannot be read at the moment.", retry_after=2, code="budget_unavailable"
            ) from error
        raise ServiceUnavailable("The budget is being recounted; try again.", retry_after=1)

    async def reconcile(self, budget_id: str, budget_key: str) -> bool:
        """Make Redis agree with the ledger, unless something was settled meanwhile."""
        settlements = await self._redis.hget(budget_key, "n")
        await self.flush()
        spent = await self._store.spent(budget_id, budget_key.rpartition(":")[2])
        done = await self._pipe.run("seed", 1, budget_key, settlements or "0", spent.usd, spent.tokens)
        return bool(done == 1)


def sums(entries: list[Entry]) -> list[dict[str, Any]]:
    """Settlements added up by day, key, budget, service and model."""
    totals: dict[tuple[Any, ...], list[int]] = {}
    for entry_id, fields in entries:
        day = datetime.fromtimestamp(int(entry_id.partition(b"-")[0]) / 1000, UTC).date()
        place = (day, fields[b"m"])
        amounts = [int(amount) for amount in fields[b"n"].split(b",")]
        known = totals.get(place)
        totals[place] = (
            amounts if known is None else [before + more for before, more in zip(known, amounts, strict=True)]
        )
    rows = []
    for (day, meta), amounts in totals.items():
        tenant, key_id, budget_id, service, model = orjson.loads(meta)
        dimensions = (day, key_id, budget_id, service, model[:200])
        row = dict(zip(DIMENSIONS, dimensions, strict=True)) | {"tenant": tenant}
        rows.append(row | dict(zip(AMOUNTS, amounts, strict=True)))
    return rows


def _after(stream_id: str) -> str:
    milliseconds, _, sequence = stream_id.partition("-")
    return f"{milliseconds}-{int(sequence) + 1}"
