"""Sessions, paging and idempotency on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.database import (
    Database,
    UtcDateTime,
    decode_cursor,
    make_metadata,
    new_id,
    paginate,
    utc_now,
)
from shared.idempotency import (
    CLAIM_SECONDS,
    Idempotency,
    IdempotencyConflict,
    IdempotencyInProgress,
    idempotency_table,
)
from shared.principal import Principal
from shared.problems import BadRequest


class Base(DeclarativeBase):
    metadata = make_metadata()


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[str] = mapped_column(primary_key=True)
    made_at: Mapped[datetime] = mapped_column(UtcDateTime)


ANSWERS = idempotency_table(Base.metadata, "test")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield database
    await database.close()


async def add(database: Database, count: int) -> list[str]:
    ids = [new_id("note") for _ in range(count)]
    async with database.session() as session:
        session.add_all(Note(id=item, made_at=utc_now()) for item in ids)
    return ids


async def test_a_session_commits_and_an_exception_rolls_back(database: Database) -> None:
    await add(database, 2)

    async def fail_midway() -> None:
        async with database.session() as session:
            session.add(Note(id="note_x", made_at=utc_now()))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail_midway()
    async with database.reading() as session:
        assert await session.scalar(select(func.count(Note.id))) == 2


async def test_times_come_back_aware_and_in_utc(database: Database) -> None:
    moment = datetime(2026, 3, 1, 12, 0, tzinfo=timezone(timedelta(hours=5)))
    async with database.session() as session:
        session.add(Note(id="note_1", made_at=moment))
    async with database.reading() as session:
        back = (await session.scalars(select(Note.made_at))).one()
    assert back == moment
    assert back.tzinfo is UTC
    with pytest.raises(StatementError):
        async with database.session() as session:
            session.add(Note(id="note_2", made_at=datetime(2026, 1, 1)))


async def test_pages_cover_everything_once_newest_first(database: Database) -> None:
    ids = sorted(await add(database, 23), reverse=True)
    seen: list[str] = []
    cursor = None
    while True:
        async with database.reading() as session:
            rows, cursor = await paginate(session, select(Note), Note.id, cursor=cursor, limit=5)
        seen += [row.id for row in rows]
        if cursor is None:
            break
    assert seen == ids


def test_a_foreign_cursor_is_a_bad_request() -> None:
    with pytest.raises(BadRequest):
        decode_cursor("\u00e9")


async def test_many_writers_wait_for_each_other(database: Database) -> None:
    """Read-then-write transactions in parallel: none may fail with a locked database."""

    async def bump() -> None:
        async with database.session() as session:
            await session.scalar(select(func.count(Note.id)))
            await asyncio.sleep(0.001)
            session.add(Note(id=new_id("note"), made_at=utc_now()))

    await asyncio.gather(*(bump() for _ in range(40)))
    async with database.reading() as session:
        assert await session.scalar(select(func.count(Note.id))) == 40


PRINCIPAL = Principal("key_1", "acme", frozenset())


async def test_numbers_of_any_size_are_told_apart(database: Database) -> None:
    idempotency = Idempotency(database, ANSWERS)
    number = 1 << 70

    async def create() -> dict[str, Any]:
        return {"number": number}

    for _ in range(2):
        assert await idempotency.once(PRINCIPAL, "large", {"a": number, "b": 1}, create) == {"number": number}
    with pytest.raises(IdempotencyConflict):
        await idempotency.once(PRINCIPAL, "large", {"a": number + 1, "b": 1}, create)


async def test_the_same_key_does_the_work_once_also_in_a_race(database: Database) -> None:
    idempotency = Idempotency(database, ANSWERS)
    made = 0

    async def create() -> dict[str, Any]:
        nonlocal made
        made += 1
        await asyncio.sleep(0.05)
        return {"id": "thing_1"}

    async def ask() -> dict[str, Any]:
        for _ in range(100):
            try:
                return await idempotency.once(PRINCIPAL, "k", {"body": 1}, create)
            except IdempotencyInProgress:
                await asyncio.sleep(0.02)
        raise AssertionError("never answered")

    answers = await asyncio.gather(*(ask() for _ in range(8)))
    assert answers == [{"id": "thing_1"}] * 8
    assert made == 1


async def test_another_body_conflicts_and_another_tenant_does_not(database: Database) -> None:
    idempotency = Idempotency(database, ANSWERS)

    async def create() -> dict[str, Any]:
        return {"id": new_id("thing")}

    first = await idempotency.once(PRINCIPAL, "k", {"body": 1}, create)
    with pytest.raises(IdempotencyConflict):
        await idempotency.once(PRINCIPAL, "k", {"body": 2}, create)
    other = await idempotency.once(Principal("key_2", "rival", frozenset()), "k", {"body": 1}, create)
    assert other != first
    assert await idempotency.once(PRINCIPAL, None, {}, create) != first


async def test_a_failed_creation_frees_its_key(database: Database) -> None:
    idempotency = Idempotency(database, ANSWERS)

    async def fail() -> dict[str, Any]:
        raise BadRequest("no")

    async def create() -> dict[str, Any]:
        return {"id": "thing_1"}

    with pytest.raises(BadRequest):
        await idempotency.once(PRINCIPAL, "k", {}, fail)
    assert await idempotency.once(PRINCIPAL, "k", {}, create) == {"id": "thing_1"}


async def test_a_claim_whose_worker_died_is_free_again(database: Database) -> None:
    idempotency = Idempotency(database, ANSWERS)
    await idempotency._claim("acme", "k", "f")
    async with database.session() as session:
        past = utc_now() - timedelta(seconds=CLAIM_SECONDS + 1)
        await session.execute(ANSWERS.update().values(made_at=past))
    assert await idempotency._claim("acme", "k", "g") is None


async def test_ping(database: Database) -> None:
    assert await database.ping() is None
    async with database.engine.connect() as connection:
        if database.is_sqlite:
            assert (await connection.execute(text("PRAGMA journal_mode"))).scalar() == "wal"
