"""Async SQLAlchemy over SQLite (WAL) and PostgreSQL, and the Alembic helper.

One `Database` per service. `session()` is a transaction that commits at its end and rolls back on
an exception; business code never calls commit. On SQLite a writing transaction takes its lock at
BEGIN: upgrading a read transaction later fails at once with "database is locked" instead of waiting.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel
from sqlalchemy import DateTime, MetaData, Select, event, inspect, text
from sqlalchemy.engine import URL, Connection, Dialect, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute
from sqlalchemy.types import TypeDecorator
from ulid import ULID

from shared.problems import BadRequest

if TYPE_CHECKING:
    from alembic.config import Config

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
_ASYNC_DRIVERS = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
}
_ADVISORY_LOCK = 7_105_411
_READ_ONLY = "latticework_reading"
_REVISION = re.compile(r"^(revision|down_revision)\b[^=\n]*= *[\"']([^\"'\n]+)[\"']", re.M)

Row = TypeVar("Row")
Item = TypeVar("Item")


def new_id(kind: str) -> str:
    """A fresh id `<kind>_<ulid>`; ids of one kind sort by time of making."""
    return f"{kind}_{ULID()}"


def utc_now() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime on every database; refuses naive values."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("naive datetime; use an aware one in UTC")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def make_metadata() -> MetaData:
    """Metadata with constraint names that migrations can refer to. Use as `metadata` of a service's Base."""
    return MetaData(naming_convention=NAMING)


def async_url(url: str) -> URL:
    """`url` with the async driver of its database."""
    parsed = make_url(url)
    return parsed.set(drivername=_ASYNC_DRIVERS.get(parsed.drivername, parsed.drivername))


def is_away(error: BaseException) -> bool:
    """Whether the database is unreachable, full or locked now, so that a repeat may succeed."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated or "database is locked" in str(error.orig)
    if isinstance(error, ConnectionError | PoolTimeout):
        return True
    # What asyncpg raises while it connects comes as it is; SQLite's users need not load it.
    from asyncpg import CannotConnectNowError, PostgresConnectionError

    return isinstance(error, CannotConnectNowError | PostgresConnectionError)


class Database:
    """An engine and its sessions."""

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        self.url = async_url(url)
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        options: dict[str, Any] = {} if self.is_sqlite else {"pool_size": pool_size, "pool_pre_ping": True}
        if self.is_sqlite and self.url.database not in (None, "", ":memory:"):
            Path(str(self.url.database)).parent.mkdir(parents=True, exist_ok=True)
        self.engine: AsyncEngine = create_async_engine(self.url, **options)
        if self.is_sqlite:
            _configure_sqlite(self.engine)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._readers = async_sessionmaker(
            self.engine.execution_options(**{_READ_ONLY: True}), expire_on_commit=False
        )

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """A writing transaction: committed at the end, rolled back on an exception."""
        async with self._sessions() as session, session.begin():
            yield session

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A reading transaction: takes no write lock, always rolled back."""
        # Closing rolls back; an explicit rollback would expire the rows the caller takes away.
        async with self._readers() as session:
            yield session

    async def ping(self) -> str | None:
        """Readiness check: None when the database answers."""
        async with self.engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
        return None

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()


def _configure_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        # The driver's own BEGIN is switched off; ours below says which kind it is.
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            "busy_timeout=15000",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def on_begin(connection: Connection) -> None:
        reading = connection.get_execution_options().get(_READ_ONLY)
        connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


class Page(BaseModel, Generic[Item]):
    """One page of a list; pass `next` as `cursor` for the following one."""

    data: list[Item]
    next: str | None = None


async def paginate(
    session: AsyncSession,
    statement: Select[Row],
    key: InstrumentedAttribute[str],
    *,
    cursor: str | None,
    limit: int,
) -> tuple[Sequence[Row], str | None]:
    """Rows of `statement`, newest id first, and the cursor of the next page.

    `key` is the id column; ids are ULIDs, so their order is the order of creation.

    Raises:
        BadRequest: the cursor is not one of ours.
    """
    if cursor is not None:
        statement = statement.where(key < decode_cursor(cursor))
    found = await session.scalars(statement.order_by(key.desc()).limit(limit + 1))
    rows: list[Any] = list(found.all())
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], encode_cursor(getattr(rows[limit - 1], key.key))


def encode_cursor(last: str) -> str:
    """An opaque cursor that continues after the id `last`."""
    return urlsafe_b64encode(last.encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The id inside a cursor.

    Raises:
        BadRequest: the cursor is not one of ours.
    """
    try:
        last = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        if not last.isprintable():  # PostgreSQL takes no NUL, and no id of ours has one.
            raise ValueError(cursor)
        return last
    except ValueError:
        raise BadRequest("The cursor is not one this list gave out.", code="invalid_cursor") from None


async def migrate(url: str, package: str) -> None:
    """Bring the tables of `package` (such as `services.vision`) to the newest version.

    The package holds `migrations/` with Alembic revisions and names its metadata in `store.Base`.
    Safe to call from several processes at once: one migrates, the others wait.
    """
    database = Database(url)
    try:
        async with database.engine.connect() as connection:
            if await connection.run_sync(_present_version, _version_table(package)) == _newest(package):
                return
        from alembic import command

        async with database.engine.begin() as connection:
            if not database.is_sqlite:
                await connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
            await connection.run_sync(lambda sync: command.upgrade(_alembic(package, sync), "head"))
    finally:
        await database.close()


def _present_version(connection: Connection, table: str) -> str | None:
    if not inspect(connection).has_table(table):
        return None
    version: str | None = connection.execute(text(f"SELECT version_num FROM {table}")).scalar()
    return version


def _newest(package: str) -> str:
    """The revision no other one builds on, read from the files: loading Alembic costs every start 0.4 s."""
    found = [_REVISION.findall(path.read_text("utf-8")) for path in _migrations(package).glob("*.py")]
    revisions = {kind: {dict(pair).get(kind, "") for pair in found} for kind in ("revision", "down_revision")}
    (newest,) = revisions["revision"] - revisions["down_revision"] - {""}
    return str(newest)


def _migrations(package: str) -> Path:
    return Path(str(importlib.import_module(package).__file__)).parent / "migrations"


async def schema_drift(url: str, package: str) -> list[str]:
    """Differences between the migrated tables of `package` and its models; empty when they agree."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    database = Database(url)

    def compare(connection: Connection) -> list[str]:
        metadata = _metadata(package)
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": _version_table(package),
                "include_object": lambda item, name, kind, reflected, other: (
                    not (kind == "table" and reflected and name not in metadata.tables)
                ),
                "target_metadata": metadata,
            },
        )
        return [str(difference) for difference in compare_metadata(context, metadata)]

    try:
        async with database.engine.connect() as connection:
            return await connection.run_sync(compare)
    finally:
        await database.close()


def _version_table(package: str) -> str:
    return f"alembic_version_{package.rpartition('.')[2]}"


def _metadata(package: str) -> MetaData:
    base: type[DeclarativeBase] = importlib.import_module(f"{package}.store").Base
    return base.metadata


def _alembic(package: str, connection: Connection | None = None) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic"))
    config.set_main_option("version_locations", str(_migrations(package)).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes.update(
        connection=connection, metadata=_metadata(package), version_table=_version_table(package)
    )
    return config


def _main() -> None:
    parser = argparse.ArgumentParser(
        description="Write a migration from the difference between models and tables."
    )
    parser.add_argument("package", help="such as services.vision")
    parser.add_argument("message")
    arguments = parser.parse_args()
    import tempfile

    from alembic import command

    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/scratch.db"

        async def write() -> None:
            await migrate(url, arguments.package)
            database = Database(url)
            async with database.engine.begin() as connection:
                await connection.run_sync(
                    lambda sync: command.revision(
                        _alembic(arguments.package, sync), arguments.message, autogenerate=True
                    )
                )
            await database.close()

        asyncio.run(write())


if __name__ == "__main__":
    _main()
