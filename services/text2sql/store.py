"""Tables of text2sql and all queries on them. Every query is bounded by a tenant or a grant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, Select, String, Text, UniqueConstraint, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.database import UtcDateTime, make_metadata, paginate, utc_now
from shared.idempotency import idempotency_table

EVERYONE = "*"


class Base(DeclarativeBase):
    metadata = make_metadata()


IDEMPOTENCY = idempotency_table(Base.metadata, "text2sql")


class DatabaseRow(Base):
    """A registered database. `sealed_url` is encrypted; `catalogue` is a whole schema view as JSON."""

    __tablename__ = "text2sql_databases"
    __table_args__ = (UniqueConstraint("tenant", "name"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(64))
    dialect: Mapped[str] = mapped_column(String(16))
    source: Mapped[str] = mapped_column(String(16))
    description: Mapped[str] = mapped_column(Text, default="")
    sealed_url: Mapped[str] = mapped_column(Text)
    state: Mapped[str] = mapped_column(String(16), default="registered")
    problem: Mapped[str] = mapped_column(Text, default="")
    fingerprint: Mapped[str] = mapped_column(String(32), default="")
    catalogue: Mapped[Any] = mapped_column(JSON, default=None, nullable=True)
    semantics: Mapped[Any] = mapped_column(JSON, default=dict)
    values_sha256: Mapped[str] = mapped_column(String(64), default="")
    job_id: Mapped[str] = mapped_column(String(40), default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    refreshed_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class GrantRow(Base):
    """A tenant that may ask a database it does not own; `tables` null means every table."""

    __tablename__ = "text2sql_grants"

    database_id: Mapped[str] = mapped_column(
        ForeignKey("text2sql_databases.id", ondelete="CASCADE"), primary_key=True
    )
    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    tables: Mapped[Any] = mapped_column(JSON, default=None, nullable=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class QuestionRow(Base):
    """A question, who asked it, and its answer: the audit record. Rows and trace are artifacts."""

    __tablename__ = "text2sql_questions"
    __table_args__ = (Index("ix_text2sql_questions_tenant_id", "tenant", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    key_id: Mapped[str] = mapped_column(String(64))
    database_id: Mapped[str] = mapped_column(String(40), index=True)
    request: Mapped[Any] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), default="running")
    verdict: Mapped[str] = mapped_column(String(16), default="")
    answer: Mapped[Any] = mapped_column(JSON, default=None, nullable=True)
    rows_sha256: Mapped[str] = mapped_column(String(64), default="")
    trace_sha256: Mapped[str] = mapped_column(String(64), default="")
    problem: Mapped[Any] = mapped_column(JSON, default=None, nullable=True)
    feedback: Mapped[Any] = mapped_column(JSON, default=None, nullable=True)
    job_id: Mapped[str] = mapped_column(String(40), default="")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    finished_at: Mapped[datetime | None] = mapped_column(UtcDateTime, default=None)


class ExampleRow(Base):
    """An approved question/SQL pair, checked when it was added."""

    __tablename__ = "text2sql_examples"
    __table_args__ = (Index("ix_text2sql_examples_tenant_id", "tenant", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64))
    database_id: Mapped[str] = mapped_column(
        ForeignKey("text2sql_databases.id", ondelete="CASCADE"), index=True
    )
    question: Mapped[str] = mapped_column(Text)
    sql: Mapped[str] = mapped_column(Text)
    fingerprint: Mapped[str] = mapped_column(String(32))
    source: Mapped[str] = mapped_column(String(16), default="added")
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


def visible_databases(tenant: str) -> Select[DatabaseRow]:
    """The one statement that says which databases a tenant may see."""
    granted = select(GrantRow.database_id).where(GrantRow.tenant.in_((tenant, EVERYONE)))
    return select(DatabaseRow).where(or_(DatabaseRow.tenant == tenant, DatabaseRow.id.in_(granted)))


async def find_database(session: AsyncSession, tenant: str, name: str) -> DatabaseRow | None:
    """A visible database by id or name; one's own goes before a granted one of the same name."""
    found = await session.scalars(
        visible_databases(tenant).where(or_(DatabaseRow.id == name, DatabaseRow.name == name))
    )
    rows = list(found.all())
    return min(rows, key=lambda row: (row.tenant != tenant, row.id), default=None)


async def owned_database(session: AsyncSession, tenant: str, name: str) -> DatabaseRow | None:
    """A database the tenant owns, by id or name."""
    return await session.scalar(
        select(DatabaseRow).where(
            DatabaseRow.tenant == tenant, or_(DatabaseRow.id == name, DatabaseRow.name == name)
        )
    )


async def granted_tables(session: AsyncSession, tenant: str, database: DatabaseRow) -> list[str] | None:
    """Tables a tenant may read; None means every table, an empty list none."""
    if database.tenant == tenant:
        return None
    grants = await session.scalars(
        select(GrantRow).where(GrantRow.database_id == database.id, GrantRow.tenant.in_((tenant, EVERYONE)))
    )
    tables: set[str] = set()
    for grant in grants.all():
        if grant.tables is None:
            return None
        tables |= set(grant.tables)
    return sorted(tables)


async def list_databases(
    session: AsyncSession, tenant: str, cursor: str | None, limit: int
) -> tuple[Sequence[DatabaseRow], str | None]:
    """Visible databases, newest first."""
    return await paginate(session, visible_databases(tenant), DatabaseRow.id, cursor=cursor, limit=limit)


async def list_grants(session: AsyncSession, database_id: str) -> Sequence[GrantRow]:
    """Every grant on a database."""
    found = await session.scalars(
        select(GrantRow).where(GrantRow.database_id == database_id).order_by(GrantRow.tenant)
    )
    return found.all()


async def find_question(session: AsyncSession, tenant: str, question_id: str) -> QuestionRow | None:
    """A question of the tenant."""
    return await session.scalar(
        select(QuestionRow).where(QuestionRow.tenant == tenant, QuestionRow.id == question_id)
    )


async def list_questions(
    session: AsyncSession, tenant: str, database_id: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[QuestionRow], str | None]:
    """The tenant's questions, newest first."""
    statement = select(QuestionRow).where(QuestionRow.tenant == tenant)
    if database_id is not None:
        statement = statement.where(QuestionRow.database_id == database_id)
    return await paginate(session, statement, QuestionRow.id, cursor=cursor, limit=limit)


async def examples_of(session: AsyncSession, tenant: str, limit: int = 2_000) -> Sequence[ExampleRow]:
    """The tenant's newest examples, of every database it has."""
    found = await session.scalars(
        select(ExampleRow).where(ExampleRow.tenant == tenant).order_by(ExampleRow.id.desc()).limit(limit)
    )
    return found.all()


async def list_examples(
    session: AsyncSession, tenant: str, database_id: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[ExampleRow], str | None]:
    """The tenant's examples, newest first."""
    statement = select(ExampleRow).where(ExampleRow.tenant == tenant)
    if database_id is not None:
        statement = statement.where(ExampleRow.database_id == database_id)
    return await paginate(session, statement, ExampleRow.id, cursor=cursor, limit=limit)
