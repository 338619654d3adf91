"""From the stream of settlements in Redis to sums in SQL, and back when Redis lost its counters.

Any number of processes may write: the cursor in SQL moves in the transaction that adds the sums, so
each settlement counts exactly once. Entries leave Redis only after they are in SQL.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import date, timedelta
from typing import Any

import orjson
from sqlalchemy.exc import SQLAlchemyError

from gateway.keys import Key
from gateway.limits import scripts
from gateway.store import AMOUNTS, DIMENSIONS, UsageStore
from shared.problems import ServiceUnavailable
from shared.redis_pipe import RedisDown, RedisPipe, RedisRefused
from shared.telemetry import logger

log = logger(__name__)

BATCH = 250
BATCHES = 20
TRIES = 20
EPOCH_DAY = date(1970, 1, 1)

FAULTS = (RedisDown, RedisRefused, SQLAlchemyError, OSError)

Entry = tuple[bytes, list[bytes]]
Totals = dict[tuple[int, bytes], list[int]]


class Ledger:
    """Writes settled usage behind the responses; `every` seconds apart."""

    def __init__(self, pipe: RedisPipe, store: UsageStore, every: float) -> None:
        self._pipe = pipe
        self._store = store
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
        except FAULTS as error:
            log.error("usage stays in Redis until the next start", error=str(error))

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._every)
                return
            try:
                await self.flush()
            except FAULTS as error:
                log.warning("usage could not be written; it stays in Redis", error=str(error))

    async def flush(self) -> int:
        """Write everything that is in the stream now; how many settlements this process wrote."""
        found = await self._pipe.call("HGET", scripts.VERSIONS, scripts.EPOCH)
        if found is None:
            return 0
        epoch: str = found.decode()
        written = 0
        while True:
            cursor = await self._store.cursor(epoch)
            totals: Totals = {}
            last_id, count, more = await self._read(cursor, totals)
            if count:
                if not await self._store.apply(epoch, cursor, last_id, rows_of(totals)):
                    continue  # Another process was faster; see what it left.
                written += count
            if last_id != "0-0":
                await self._pipe.call("XTRIM", scripts.STREAM, "MINID", _after(last_id))
            if not more:
                return written

    async def _read(self, cursor: str, totals: Totals) -> tuple[str, int, bool]:
        """Add up what follows `cursor`: id of the last entry, how many, and whether there is more.

        In small batches: they share their connection and their event loop with running calls.
        """
        count = 0
        for _ in range(BATCHES):
            entries = await self._pipe.call("XRANGE", scripts.STREAM, f"({cursor}", "+", "COUNT", BATCH)
            add_up(entries, totals)
            count += len(entries)
            if entries:
                cursor = entries[-1][0].decode()
            if len(entries) < BATCH:
                return cursor, count, False
        return cursor, count, True

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
        except FAULTS as error:
            raise ServiceUnavailable(
                "The budget cannot be read at the moment.", retry_after=2, code="budget_unavailable"
            ) from error
        raise ServiceUnavailable("The budget is being recounted; try again.", retry_after=1)

    async def reconcile(self, budget_id: str, budget_key: str) -> bool:
        """Make Redis agree with the ledger, unless something was settled meanwhile."""
        settlements = await self._pipe.call("HGET", budget_key, "n")
        await self.flush()
        spent = await self._store.spent(budget_id, budget_key.rpartition(":")[2])
        done = await self._pipe.run("seed", 1, budget_key, settlements or "0", spent.usd, spent.tokens)
        return bool(done == 1)


def add_up(entries: list[Entry], totals: Totals) -> None:
    """Add settlements to `totals` by day and by who and what."""
    for entry_id, fields in entries:
        # Field names and values take turns: m, who and what, n, amounts.
        day = int(entry_id.partition(b"-")[0]) // 86_400_000
        amounts = fields[3].split(b",")
        known = totals.get((day, fields[1]))
        if known is None:
            totals[day, fields[1]] = [int(amount) for amount in amounts]
        else:
            for index, amount in enumerate(amounts):
                known[index] += int(amount)


def rows_of(totals: Totals) -> list[dict[str, Any]]:
    """Rows for the ledger."""
    rows = []
    for (day, meta), amounts in totals.items():
        tenant, key_id, budget_id, service, model = orjson.loads(meta)
        moment = EPOCH_DAY + timedelta(days=day)
        dimensions = (moment, key_id, budget_id, service, model[:200])
        row = dict(zip(DIMENSIONS, dimensions, strict=True)) | {"tenant": tenant}
        rows.append(row | dict(zip(AMOUNTS, amounts, strict=True)))
    return rows


def _after(stream_id: str) -> str:
    milliseconds, _, sequence = stream_id.partition("-")
    return f"{milliseconds}-{int(sequence) + 1}"
