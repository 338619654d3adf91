"""All SQL of the model service: engines and aliases made through the API, and artifacts.

Every query is bounded by the tenant. Engines and aliases of the whole suite have the tenant `*`; any
administrator may change them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, String, delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from shared.database import UtcDateTime, make_metadata, paginate, utc_now
from shared.idempotency import idempotency_table

SUITE = "*"


class Base(DeclarativeBase):
    metadata = make_metadata()


idempotency = idempotency_table(Base.metadata, "model")


class EngineRow(Base):
    """An engine loaded through the API, or the replacement of a configured one."""

    __tablename__ = "model_engines"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class AliasRow(Base):
    """A name set through the API."""

    __tablename__ = "model_aliases"

    tenant: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(128), primary_key=True)
    engine_id: Mapped[str] = mapped_column(String(64), index=True)
    model: Mapped[str | None] = mapped_column(String(128))


class ArtifactRow(Base):
    """One uploaded file, or a manifest of several."""

    __tablename__ = "model_artifacts"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    tenant: Mapped[str] = mapped_column(String(64), index=True)
    name: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(32))
    size: Mapped[int] = mapped_column(BigInteger)
    manifest_sha256: Mapped[str] = mapped_column(String(64))
    details: Mapped[dict[str, Any]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)


class ArtifactFileRow(Base):
    """A file of an artifact; the bytes are shared by everything of the same sha256."""

    __tablename__ = "model_artifact_files"

    artifact_id: Mapped[str] = mapped_column(
        ForeignKey("model_artifacts.id", ondelete="CASCADE"), primary_key=True
    )
    path: Mapped[str] = mapped_column(String(200), primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int] = mapped_column(BigInteger)


async def all_engines(session: AsyncSession) -> Sequence[EngineRow]:
    """Every engine, for the start of the service."""
    return (await session.scalars(select(EngineRow).order_by(EngineRow.id))).all()


async def all_aliases(session: AsyncSession) -> Sequence[AliasRow]:
    """Every alias, for the start of the service."""
    return (await session.scalars(select(AliasRow).order_by(AliasRow.tenant, AliasRow.name))).all()


async def save_engine(session: AsyncSession, engine_id: str, tenant: str, spec: dict[str, Any]) -> None:
    """Remember an engine, or its new description."""
    row = await session.get(EngineRow, engine_id)
    if row is None:
        session.add(EngineRow(id=engine_id, tenant=tenant, spec=spec))
    elif row.tenant == tenant:
        row.spec = spec


async def forget_engine(session: AsyncSession, engine_id: str, tenant: str) -> None:
    """Forget an engine and the aliases that lead to it."""
    await session.execute(delete(AliasRow).where(AliasRow.engine_id == engine_id))
    await session.execute(delete(EngineRow).where(EngineRow.id == engine_id, EngineRow.tenant == tenant))


async def save_alias(
    session: AsyncSession, name: str, tenant: str, engine_id: str, model: str | None
) -> None:
    """Remember where a name leads."""
    await session.merge(AliasRow(tenant=tenant, name=name, engine_id=engine_id, model=model))


async def forget_alias(session: AsyncSession, name: str, tenant: str) -> None:
    """Forget a name."""
    await session.execute(delete(AliasRow).where(AliasRow.tenant == tenant, AliasRow.name == name))


async def add_artifact(session: AsyncSession, row: ArtifactRow, files: Sequence[ArtifactFileRow]) -> None:
    """Remember an artifact with its files."""
    session.add(row)
    await session.flush()
    session.add_all(files)


async def find_artifact(session: AsyncSession, artifact_id: str, tenant: str) -> ArtifactRow | None:
    """The artifact, if it is the tenant's."""
    found: ArtifactRow | None = await session.scalar(
        select(ArtifactRow).where(ArtifactRow.id == artifact_id, ArtifactRow.tenant == tenant)
    )
    return found


async def list_artifacts(
    session: AsyncSession, tenant: str, *, kind: str | None, cursor: str | None, limit: int
) -> tuple[Sequence[ArtifactRow], str | None]:
    """A page of the tenant's artifacts, newest first."""
    statement = select(ArtifactRow).where(ArtifactRow.tenant == tenant)
    if kind is not None:
        statement = statement.where(ArtifactRow.kind == kind)
    return await paginate(session, statement, ArtifactRow.id, cursor=cursor, limit=limit)


async def files_of(session: AsyncSession, artifact_id: str) -> Sequence[ArtifactFileRow]:
    """The files of an artifact the caller has found before."""
    statement = select(ArtifactFileRow).where(ArtifactFileRow.artifact_id == artifact_id)
    return (await session.scalars(statement.order_by(ArtifactFileRow.path))).all()


async def remove_artifact(session: AsyncSession, row: ArtifactRow) -> set[str]:
    """Forget an artifact; the sha256 of every blob it referred to."""
    digests = {file.sha256 for file in await files_of(session, row.id)} | {row.manifest_sha256}
    await session.execute(delete(ArtifactFileRow).where(ArtifactFileRow.artifact_id == row.id))
    await session.execute(
        delete(ArtifactRow).where(ArtifactRow.id == row.id, ArtifactRow.tenant == row.tenant)
    )
    return digests


async def unused(session: AsyncSession, digests: Iterable[str]) -> list[str]:
    """Those of `digests` that no artifact of any tenant refers to."""
    found = []
    for digest in sorted(digests):
        files = select(func.count()).where(ArtifactFileRow.sha256 == digest)
        manifests = select(func.count()).where(ArtifactRow.manifest_sha256 == digest)
        if not await session.scalar(files) and not await session.scalar(manifests):
            found.append(digest)
    return found
