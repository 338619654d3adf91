"""The tables of queued work. The database is the truth; Redis only carries what can be rebuilt from here.

`attempt` is the fencing token: it grows by one with every start, and whoever holds an older one can
write nothing. Times are the database's: each process measures how far its own clock is off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    JSON,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase

from shared.database import Database, UtcDateTime, make_metadata, migrate, utc_now

if TYPE_CHECKING:
    from prometheus_client import Counter

PACKAGE = "shared.jobs"
_BAD_ENDS = "latticework_bad_ends"


class Base(DeclarativeBase):
    """Where migrations find the tables."""

    metadata = make_metadata()


def _json() -> Any:
    return JSON(none_as_null=True)


def _partial(name: str, condition: str, *columns: str) -> Index:
    where = text(condition)
    return Index(name, *columns, sqlite_where=where, postgresql_where=where)


jobs = Table(
    "jobs",
    Base.metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("kind", String(100), nullable=False),
    Column("pool", String(64), nullable=False),
    Column("scope", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    # The priority with its sign turned, so that an ascending index serves the queue.
    Column("rank", Integer, nullable=False),
    Column("principal", _json(), nullable=False),
    Column("parameters", _json(), nullable=False),
    Column("idempotency_key", String(200)),
    Column("fingerprint", String(64)),
    Column("attempt", Integer, nullable=False),
    # Attempts that ended badly since the last checkpoint.
    Column("failures", Integer, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("timeout_s", Float, nullable=False),
    Column("backoff_s", Float, nullable=False),
    Column("backoff_limit_s", Float, nullable=False),
    Column("result_ttl_s", Float, nullable=False),
    Column("progress", Float, nullable=False),
    Column("message", Text),
    Column("metrics", _json()),
    # The number of the last report written in this attempt: a repeated write does nothing.
    Column("reported", Integer, nullable=False),
    Column("checkpoint", _json()),
    Column("checkpoint_at", UtcDateTime),
    Column("result", _json()),
    Column("problem", _json()),
    Column("not_before", UtcDateTime),
    Column("deadline", UtcDateTime),
    # When it may start: `not_before`, or the end of a retry's backoff.
    Column("available_at", UtcDateTime, nullable=False),
    Column("waiting_on", Integer, nullable=False),
    # Null is the outbox: the job still has to be told to Redis.
    Column("announced_at", UtcDateTime),
    Column("lease_owner", String(40)),
    Column("lease_expires_at", UtcDateTime),
    Column("cancel_requested_at", UtcDateTime),
    Column("event_sequence", Integer, nullable=False),
    Column("trace_parent", String(64)),
    Column("created_at", UtcDateTime, nullable=False),
    Column("queued_at", UtcDateTime, nullable=False),
    Column("started_at", UtcDateTime),
    Column("finished_at", UtcDateTime),
    Column("expires_at", UtcDateTime),
    UniqueConstraint("tenant", "idempotency_key", name="uq_jobs_tenant_idempotency_key"),
    Index("ix_jobs_tenant_id", "tenant", "id"),
    Index("ix_jobs_tenant_state_id", "tenant", "state", "id"),
    Index("ix_jobs_tenant_kind_state_id", "tenant", "kind", "state", "id"),
    Index("ix_jobs_tenant_scope_state_id", "tenant", "scope", "state", "id"),
    Index("ix_jobs_queue", "state", "pool", "rank", "id"),
    # PostgreSQL writes every index anew with every change of a row: these hold only the rows they are for.
    _partial("ix_jobs_outbox", "announced_at IS NULL", "state", "available_at"),
    _partial("ix_jobs_lease", "lease_expires_at IS NOT NULL", "state", "lease_expires_at"),
    _partial("ix_jobs_deadline", "deadline IS NOT NULL", "state", "deadline"),
    _partial("ix_jobs_owner", "lease_owner IS NOT NULL", "lease_owner"),
    _partial("ix_jobs_expires_at", "expires_at IS NOT NULL", "expires_at"),
)

events = Table(
    "job_events",
    Base.metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("sequence", Integer, primary_key=True, autoincrement=False),
    Column("type", String(32), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("data", _json(), nullable=False),
)

dependencies = Table(
    "job_dependencies",
    Base.metadata,
    Column("job_id", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("depends_on", ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Index("ix_job_dependencies_depends_on", "depends_on"),
)

# One row: which life of Redis the announcements were made to.
epochs = Table(
    "job_queue_epoch",
    Base.metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("epoch", String(100), nullable=False),
)


def note_bad_end(session: AsyncSession, kind: str, code: str, outcome: str) -> None:
    """Have `JobDatabase.failures` count a bad end, once the transaction of `session` is committed."""
    session.info.setdefault(_BAD_ENDS, []).append((kind, code, outcome))


class JobDatabase(Database):
    """The jobs database, with its clock and its count of bad ends."""

    failures: Counter | None = None
    """By kind, problem code and outcome; None where nobody asks for it."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        super().__init__(url, pool_size=pool_size)
        self._plain_url = url
        self._offset = timedelta()
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A writing transaction: committed at the end, rolled back on an exception.

        SQLite has one writer at a time, and who finds it busy sleeps for a while instead of queueing:
        within this process writers queue here.
        """
        async with self._turn if self.is_sqlite else contextlib.nullcontext():
            async with super().session() as session:
                yield session
        if self.failures is not None:
            for labels in session.info.get(_BAD_ENDS, ()):
                self.failures.labels(*labels).inc()

    async def prepare(self) -> None:
        """Bring the tables to the newest version and compare the clocks."""
        await migrate(self._plain_url, PACKAGE)
        await self.compare_clocks()

    async def compare_clocks(self) -> None:
        """Measure how far the database's clock is from ours: leases mean the same everywhere."""
        if self.is_sqlite:
            return
        async with self.engine.connect() as connection:
            before = utc_now()
            theirs = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
            self._offset = theirs.astimezone(UTC) - (before + (utc_now() - before) / 2)

    def now(self) -> datetime:
        """The present moment by the database's clock."""
        return utc_now() + self._offset
