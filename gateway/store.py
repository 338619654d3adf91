"""All SQL of the gateway: keys, budgets and the ledger of what was used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Any

import orjson
from sqlalchemy import BigInteger, Date, ForeignKey, Index, Integer, String, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from gateway.keys import UNLIMITED, Key, period_start
from shared.database import Database, UtcDateTime, make_metadata, paginate, utc_now
from shared.idempotency import idempotency_table
from shared.problems import NotFound


class Base(DeclarativeBase):
    """Tables of the gateway."""

    metadata = make_metadata()


idempotency = idempotency_table(Base.metadata, "gateway")


class BudgetRow(Base):
    """Money and tokens that the keys under it share; limits in micro-dollars and tokens."""

    __tablename__ = "gateway_budgets"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(200))
    limit_usd: Mapped[int | None] = mapped_column(BigInteger)
    limit_tokens: Mapped[int | None] = mapped_column(BigInteger)
    period: Mapped[str] = mapped_column(String(8))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)


class KeyRow(Base):
    """A key; `previous_hash` still opens until `previous_until` after a rotation with overlap."""

    __tablename__ = "gateway_keys"

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    tenant_class: Mapped[str] = mapped_column(String(32))
    name: Mapped[str] = mapped_column(String(200))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    previous_hash: Mapped[str | None] = mapped_column(String(64), unique=True)
    previous_until: Mapped[datetime | None] = mapped_column(UtcDateTime)
    shown: Mapped[str] = mapped_column(String(16))
    scopes: Mapped[str] = mapped_column(String(500))
    requests_per_minute: Mapped[int | None] = mapped_column(Integer)
    tokens_per_minute: Mapped[int | None] = mapped_column(BigInteger)
    budget_id: Mapped[str | None] = mapped_column(ForeignKey("gateway_budgets.id"), index=True)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)


class UsageRow(Base):
    """What one key used of one model of one service on one day; `model` is empty for other calls."""

    __tablename__ = "gateway_usage"

    day: Mapped[date] = mapped_column(Date, primary_key=True)
    key_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    budget_id: Mapped[str] = mapped_column(String(40), primary_key=True)
    service: Mapped[str] = mapped_column(String(32), primary_key=True)
    model: Mapped[str] = mapped_column(String(200), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    requests: Mapped[int] = mapped_column(BigInteger)
    failures: Mapped[int] = mapped_column(BigInteger)
    prompt_tokens: Mapped[int] = mapped_column(BigInteger)
    completion_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    cost: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        Index("ix_gateway_usage_tenant_day", "tenant", "day"),
        Index("ix_gateway_usage_budget_day", "budget_id", "day"),
    )


class LedgerCursor(Base):
    """Up to where the stream of settlements has been written into `gateway_usage`.

    It moves in the same transaction as the sums, so a record counts once, whoever writes it and
    however often it is read. `epoch` tells one data set of Redis from the next.
    """

    __tablename__ = "gateway_ledger_cursor"

    epoch: Mapped[str] = mapped_column(String(64), primary_key=True)
    last_id: Mapped[str] = mapped_column(String(40))


AMOUNTS = ("requests", "failures", "prompt_tokens", "completion_tokens", "cached_tokens", "cost")
DIMENSIONS = ("day", "key_id", "budget_id", "service", "model")


@dataclass(frozen=True, slots=True)
class Spent:
    """What a budget has used: micro-dollars and tokens."""

    usd: int
    tokens: int


def key_of(row: KeyRow, budget: BudgetRow | None) -> Key:
    """The copy of a key that the hot path works with."""

    def limit(value: int | None) -> int:
        return UNLIMITED if value is None else value

    return Key(
        id=row.id,
        tenant=row.tenant,
        tenant_class=row.tenant_class,
        scopes=frozenset(orjson.loads(row.scopes)),
        version=row.version,
        requests_per_minute=limit(row.requests_per_minute),
        tokens_per_minute=limit(row.tokens_per_minute),
        budget_id=row.budget_id,
        budget_usd=limit(budget.limit_usd) if budget else UNLIMITED,
        budget_tokens=limit(budget.limit_tokens) if budget else UNLIMITED,
        budget_period=budget.period if budget else "total",
        expires_at=row.expires_at.timestamp() if row.expires_at else None,
        revoked=row.revoked_at is not None,
    )


class KeyStore:
    """Keys and budgets, always of one tenant except where the hot path looks a key up."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def by_digest(self, digest: str) -> tuple[Key, float | None] | None:
        """The key with this hash and, for the hash before its rotation, until when it opens."""
        async with self.database.reading() as session:
            matches = (KeyRow.hash == digest) | (KeyRow.previous_hash == digest)
            found = (await session.execute(_with_budget().where(matches))).first()
        if found is None:
            return None
        row, budget = found
        until = None if row.hash == digest else row.previous_until
        if row.hash != digest and until is None:
            return None
        return key_of(row, budget), until.timestamp() if until else None

    async def by_id(self, key_id: str) -> Key | None:
        """The key with this id."""
        async with self.database.reading() as session:
            found = (await session.execute(_with_budget().where(KeyRow.id == key_id))).first()
        return None if found is None else key_of(*found)

    async def versions_since(self, since: datetime) -> list[tuple[str, int]]:
        """Ids and versions of keys changed after `since`."""
        async with self.database.reading() as session:
            rows = await session.execute(select(KeyRow.id, KeyRow.version).where(KeyRow.updated_at > since))
            return [(row.id, row.version) for row in rows]

    async def add(self, row: KeyRow | BudgetRow) -> None:
        """Store a new key or budget."""
        async with self.database.session() as session:
            session.add(row)

    async def row(self, tenant: str, key_id: str) -> KeyRow:
        """One key of a tenant; NotFound otherwise."""
        async with self.database.reading() as session:
            return await _key(session, tenant, key_id)

    async def rows(
        self, tenant: str, *, cursor: str | None, limit: int, key_id: str | None = None
    ) -> tuple[Sequence[KeyRow], str | None]:
        """A page of a tenant's keys, newest first."""
        statement = select(KeyRow).where(KeyRow.tenant == tenant)
        if key_id is not None:
            statement = statement.where(KeyRow.id == key_id)
        async with self.database.reading() as session:
            return await paginate(session, statement, KeyRow.id, cursor=cursor, limit=limit)

    async def change(self, tenant: str, key_id: str, **values: Any) -> KeyRow:
        """Set columns of a key and raise its version."""
        async with self.database.session() as session:
            row = await _key(session, tenant, key_id)
            for name, value in values.items():
                setattr(row, name, value)
            row.version += 1
            row.updated_at = utc_now()
            return row

    async def budget(self, tenant: str, budget_id: str) -> BudgetRow:
        """One budget of a tenant; NotFound otherwise."""
        async with self.database.reading() as session:
            return await _budget(session, tenant, budget_id)

    async def budgets(
        self, tenant: str, *, cursor: str | None, limit: int
    ) -> tuple[Sequence[BudgetRow], str | None]:
        """A page of a tenant's budgets, newest first."""
        statement = select(BudgetRow).where(BudgetRow.tenant == tenant)
        async with self.database.reading() as session:
            return await paginate(session, statement, BudgetRow.id, cursor=cursor, limit=limit)

    async def change_budget(
        self, tenant: str, budget_id: str, **values: Any
    ) -> tuple[BudgetRow, list[tuple[str, int]]]:
        """Set columns of a budget; every key under it gets a new version, which is returned."""
        async with self.database.session() as session:
            row = await _budget(session, tenant, budget_id)
            for name, value in values.items():
                setattr(row, name, value)
            await session.execute(
                update(KeyRow)
                .where(KeyRow.budget_id == budget_id)
                .values(version=KeyRow.version + 1, updated_at=utc_now())
            )
            keys = await session.execute(
                select(KeyRow.id, KeyRow.version).where(KeyRow.budget_id == budget_id)
            )
            return row, [(key.id, key.version) for key in keys]


def _with_budget() -> Any:
    return select(KeyRow, BudgetRow).outerjoin(BudgetRow, KeyRow.budget_id == BudgetRow.id)


async def _key(session: AsyncSession, tenant: str, key_id: str) -> KeyRow:
    found = await session.scalar(select(KeyRow).where(KeyRow.id == key_id, KeyRow.tenant == tenant))
    if found is None:
        raise NotFound(f"There is no key {key_id}.")
    return found


async def _budget(session: AsyncSession, tenant: str, budget_id: str) -> BudgetRow:
    found = await session.scalar(
        select(BudgetRow).where(BudgetRow.id == budget_id, BudgetRow.tenant == tenant)
    )
    if found is None:
        raise NotFound(f"There is no budget {budget_id}.")
    return found


class UsageStore:
    """The ledger: sums by day, key, budget, service and model."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def cursor(self, epoch: str) -> str:
        """The id of the last settlement written from this data set of Redis."""
        async with self.database.reading() as session:
            found = await session.get(LedgerCursor, epoch)
            return "0-0" if found is None else found.last_id

    async def apply(self, epoch: str, expected: str, last_id: str, rows: Sequence[dict[str, Any]]) -> bool:
        """Add `rows` and move the cursor from `expected` to `last_id`; False if it stood elsewhere.

        Rows are written in the order of their keys, so two writers cannot deadlock.
        """
        ordered = sorted(rows, key=lambda row: tuple(str(row[name]) for name in DIMENSIONS))
        async with self.database.session() as session:
            if not await self._move(session, epoch, expected, last_id):
                return False
            if ordered:
                await session.execute(self._upsert, ordered)
        return True

    async def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add `rows` that never were in Redis."""
        if rows:
            async with self.database.session() as session:
                await session.execute(self._upsert, list(rows))

    async def _move(self, session: AsyncSession, epoch: str, expected: str, last_id: str) -> bool:
        if expected == "0-0":
            insert = self._insert(LedgerCursor).values(epoch=epoch, last_id=last_id)
            inserted = await session.execute(insert.on_conflict_do_nothing())
            moved: int = inserted.rowcount  # type: ignore[attr-defined]
            return moved == 1
        statement = (
            update(LedgerCursor)
            .where(LedgerCursor.epoch == epoch, LedgerCursor.last_id == expected)
            .values(last_id=last_id)
        )
        updated = await session.execute(statement)
        count: int = updated.rowcount  # type: ignore[attr-defined]
        return count == 1

    def _insert(self, table: type[Base]) -> Any:
        return sqlite.insert(table) if self.database.is_sqlite else postgresql.insert(table)

    @cached_property
    def _upsert(self) -> Any:
        insert = self._insert(UsageRow)
        added = {name: getattr(UsageRow, name) + insert.excluded[name] for name in AMOUNTS}
        return insert.on_conflict_do_update(index_elements=list(DIMENSIONS), set_=added)

    async def spent(self, budget_id: str, label: str) -> Spent:
        """What a budget used in a labelled period."""
        statement = select(
            func.coalesce(func.sum(UsageRow.cost), 0),
            func.coalesce(func.sum(UsageRow.prompt_tokens + UsageRow.completion_tokens), 0),
        ).where(UsageRow.budget_id == budget_id)
        start = period_start(label)
        if start is not None:
            statement = statement.where(UsageRow.day >= start.date())
        async with self.database.reading() as session:
            usd, tokens = (await session.execute(statement)).one()
        return Spent(int(usd), int(tokens))

    async def report(
        self,
        tenant: str,
        *,
        group_by: Sequence[str],
        first: date,
        last: date,
        filters: dict[str, str],
        offset: int,
        limit: int,
    ) -> list[dict[str, Any]]:
        """Sums of a tenant's usage between two days, grouped by some of the dimensions."""
        groups = [getattr(UsageRow, name) for name in group_by]
        sums = [func.sum(getattr(UsageRow, name)).label(name) for name in AMOUNTS]
        statement = (
            select(*groups, *sums)
            .where(UsageRow.tenant == tenant, UsageRow.day >= first, UsageRow.day <= last)
            .where(*(getattr(UsageRow, name) == value for name, value in filters.items()))
            .group_by(*groups)
            .order_by(*groups)
            .offset(offset)
            .limit(limit)
        )
        async with self.database.reading() as session:
            rows = (await session.execute(statement)).mappings().all()
        # SQL sums of no group at all are one row of NULLs; PostgreSQL sums are decimals.
        return [
            {name: int(value) if name in AMOUNTS else value for name, value in row.items()}
            for row in rows
            if row["requests"] is not None
        ]
