"""What keeps the queue whole: the outbox relay, the reaper of lost leases, deadlines, expiry.

Any process may run it, several may at once: every step is guarded, so doing it twice does nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select, tuple_, update

from shared.jobs.leases import end_badly
from shared.jobs.problems import WorkerLost
from shared.jobs.schemas import JobState
from shared.jobs.store import JobDatabase, epochs, jobs
from shared.jobs.transitions import announcement, finish, problem_of
from shared.jobs.transport import QUEUE_DOWN, Announcement, Transport
from shared.problems import DeadlineExceeded
from shared.telemetry import logger

log = logger(__name__)

EVERY_SECONDS = 1.0
BATCH = 500
"""Rows of one round trip; bounded so that no statement holds the database for long."""
FORGOTTEN_SECONDS = 10.0
SLOW_EVERY = 10
"""Clock comparison, expiry and the search for forgotten jobs run once in so many rounds."""

_ANNOUNCED = (jobs.c.id, jobs.c.pool, jobs.c.rank, jobs.c.created_at)


@dataclass(slots=True)
class UpkeepCounts:
    """What has been mended since the start of this process."""

    announced: int = 0
    reaped: int = 0
    forgotten: int = 0
    redis_losses: int = 0
    overdue: int = 0
    expired: int = 0


@dataclass(slots=True)
class Upkeep:
    """The rounds of one process."""

    database: JobDatabase
    transport: Transport
    failed_kept: timedelta
    counts: UpkeepCounts = field(default_factory=UpkeepCounts)
    _epoch: str | None = None
    _round: int = 0

    async def run(self) -> None:
        """Go round until cancelled; a failing round is logged and the next one tries again."""
        while True:
            try:
                await self.once()
            except Exception as error:
                log.warning("upkeep failed", error=f"{type(error).__name__}: {error}"[:300])
            await asyncio.sleep(EVERY_SECONDS * random.uniform(0.8, 1.2))

    async def once(self) -> None:
        """One round: the database's part always, Redis's part while Redis is there."""
        self._round += 1
        await self.reap()
        await self.end_overdue()
        if self._round % SLOW_EVERY == 1:
            await self.database.compare_clocks()
            await self.expire()
        try:
            await self.notice_loss()
            if self._round % SLOW_EVERY == 0:
                await self.remember_forgotten()
            await self.relay()
        except QUEUE_DOWN as error:
            log.debug("redis is away", error=type(error).__name__)

    async def reap(self) -> None:
        """Take jobs from workers that stopped renewing: their next attempt continues from the checkpoint."""
        now = self.database.now()
        expired = (jobs.c.state == JobState.running.value, jobs.c.lease_expires_at < now)
        async with self.database.reading() as session:
            lost = list(await session.scalars(select(jobs.c.id).where(*expired).limit(BATCH)))
        for job_id in lost:
            async with self.database.session() as session:
                statement = (
                    select(jobs).where(jobs.c.id == job_id, *expired).with_for_update(skip_locked=True)
                )
                row = (await session.execute(statement)).mappings().one_or_none()
                if row is None:
                    continue
                problem = WorkerLost(
                    f"The worker {row['lease_owner']} stopped renewing its lease on attempt {row['attempt']}."
                )
                document = problem_of(job_id, problem, row["principal"]["request_id"])
                await end_badly(
                    session, now, row, document, final=False, pause_s=0.0, failed_kept=self.failed_kept
                )
            self.counts.reaped += 1
            log.warning("lease expired", job_id=job_id, worker=row["lease_owner"], attempt=row["attempt"])
            await self._tell(job_id)

    async def end_overdue(self) -> None:
        """Fail waiting jobs whose deadline is over; running ones are stopped by their worker."""
        now = self.database.now()
        overdue = (jobs.c.state == JobState.queued.value, jobs.c.deadline <= now)
        async with self.database.reading() as session:
            found = list(await session.scalars(select(jobs.c.id).where(*overdue).limit(BATCH)))
        for job_id in found:
            problem = DeadlineExceeded("The deadline passed while the job was waiting.")
            async with self.database.session() as session:
                row = await finish(
                    session,
                    now,
                    (jobs.c.id == job_id, *overdue),
                    JobState.failed,
                    kept=self.failed_kept,
                    problem=problem_of(job_id, problem),
                )
            if row is not None:
                self.counts.overdue += 1
                await self._tell(job_id)

    async def expire(self) -> None:
        """Delete finished jobs whose time is over, with their events."""
        old = select(jobs.c.id).where(jobs.c.expires_at < self.database.now()).limit(BATCH)
        async with self.database.reading() as session:
            found = list(await session.scalars(old))
        if found:
            async with self.database.session() as session:
                await session.execute(delete(jobs).where(jobs.c.id.in_(found)))
            self.counts.expired += len(found)

    async def relay(self) -> None:
        """Tell Redis of every job that became due since the last round: new, released, after a pause."""
        while True:
            now = self.database.now()
            async with self.database.reading() as session:
                statement = (
                    select(*_ANNOUNCED)
                    .where(
                        jobs.c.state == JobState.queued.value,
                        jobs.c.announced_at.is_(None),
                        jobs.c.available_at <= now,
                        jobs.c.waiting_on == 0,
                    )
                    .limit(BATCH)
                )
                rows = (await session.execute(statement)).mappings().all()
            if not rows:
                return
            waiting = [announcement(row) for row in rows]
            await self.transport.announce(waiting)
            await self._mark(waiting, now)
            self.counts.announced += len(waiting)
            if len(rows) < BATCH:
                return

    async def _mark(self, waiting: Sequence[Announcement], read_at: datetime) -> None:
        """Note that Redis knows; a job that ran and came back since `read_at` is left to the next round.

        No other condition: a job that has left the queue may be noted, and PostgreSQL, offered an index
        of the outbox, would rather walk through all of it than look 500 ids up.
        """
        async with self.database.session() as session:
            await session.execute(
                update(jobs)
                .where(jobs.c.id.in_([item.job_id for item in waiting]), jobs.c.queued_at <= read_at)
                .values(announced_at=self.database.now())
            )

    async def notice_loss(self) -> None:
        """When Redis was restarted or has lost its data, tell it of everything anew."""
        epoch = await self.transport.epoch()
        if epoch == self._epoch:
            return
        known = await self._known_epoch()
        if known is not None and known != epoch:
            log.info("redis began anew; announcing every waiting job again")
            await self._announce_everything(epoch)
            self.counts.redis_losses += 1
        async with self.database.session() as session:
            if known is None:
                await session.execute(insert(epochs).values(id=1, epoch=epoch))
            else:
                await session.execute(update(epochs).where(epochs.c.id == 1).values(epoch=epoch))
        self._epoch = epoch

    async def _known_epoch(self) -> str | None:
        async with self.database.reading() as session:
            known: str | None = await session.scalar(select(epochs.c.epoch).where(epochs.c.id == 1))
        return known

    async def _announce_everything(self, epoch: str) -> None:
        """Announce all that waits, first in line first, unless another process was quicker.

        It only reads: a hundred thousand rows must not be locked while workers ask for them.
        """
        place = tuple_(jobs.c.pool, jobs.c.rank, jobs.c.id)
        after: tuple[str, int, str] | None = None
        while await self._known_epoch() != epoch:
            statement = (
                select(*_ANNOUNCED)
                .where(
                    jobs.c.state == JobState.queued.value,
                    jobs.c.waiting_on == 0,
                    jobs.c.available_at <= self.database.now(),
                )
                .order_by(jobs.c.pool, jobs.c.rank, jobs.c.id)
                .limit(BATCH)
            )
            if after is not None:
                statement = statement.where(place > after)
            async with self.database.reading() as session:
                rows = (await session.execute(statement)).mappings().all()
            await self.transport.announce([announcement(row) for row in rows])
            if len(rows) < BATCH:
                return
            after = (rows[-1]["pool"], rows[-1]["rank"], rows[-1]["id"])

    async def remember_forgotten(self) -> None:
        """Announce again what should be first in line and is not there.

        A worker that died between taking a job from Redis and leasing it leaves it so. What it took was
        at the head of its pool, so the head is where to look.
        """
        pools = await self._pools()
        for pool in pools:
            async with self.database.reading() as session:
                statement = (
                    select(*_ANNOUNCED)
                    .where(
                        jobs.c.state == JobState.queued.value,
                        jobs.c.pool == pool,
                        jobs.c.waiting_on == 0,
                        jobs.c.announced_at < self.database.now() - timedelta(seconds=FORGOTTEN_SECONDS),
                    )
                    .order_by(jobs.c.rank, jobs.c.id)
                    .limit(BATCH)
                )
                rows = (await session.execute(statement)).mappings().all()
            missing = await self.transport.missing([announcement(row) for row in rows])
            await self.transport.announce(missing)
            self.counts.forgotten += len(missing)

    async def _pools(self) -> list[str]:
        async with self.database.reading() as session:
            statement = select(jobs.c.pool).where(jobs.c.state == JobState.queued.value).distinct()
            return list(await session.scalars(statement))

    async def _tell(self, job_id: str) -> None:
        try:
            await self.transport.tell_news(job_id)
        except QUEUE_DOWN:
            log.debug("redis is away", job_id=job_id)


@dataclass(frozen=True, slots=True)
class PoolDepth:
    """What waits and runs in a pool; `oldest_s` is the age of the longest waiting job that may start."""

    pool: str
    queued: int
    running: int
    oldest_s: float


async def pool_depths(database: JobDatabase) -> list[PoolDepth]:
    """The state of every pool that has work."""
    now = database.now()
    counts: dict[str, dict[str, int]] = {}
    oldest: dict[str, float] = {}
    async with database.reading() as session:
        live = jobs.c.state.in_([JobState.queued.value, JobState.running.value])
        statement = (
            select(jobs.c.pool, jobs.c.state, func.count()).where(live).group_by(jobs.c.pool, jobs.c.state)
        )
        for pool, state, count in await session.execute(statement):
            counts.setdefault(pool, {})[state] = count
        waiting = (
            select(jobs.c.pool, func.min(jobs.c.available_at))
            .where(jobs.c.state == JobState.queued.value, jobs.c.available_at <= now, jobs.c.waiting_on == 0)
            .group_by(jobs.c.pool)
        )
        for pool, since in await session.execute(waiting):
            oldest[pool] = (now - since).total_seconds()
    return [
        PoolDepth(
            pool,
            states.get(JobState.queued.value, 0),
            states.get(JobState.running.value, 0),
            max(0.0, oldest.get(pool, 0.0)),
        )
        for pool, states in sorted(counts.items())
    ]
