"""`/v1/sql/databases`: register, upload, describe, grant, refresh, remove."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Response, UploadFile
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from services.text2sql.jobs import CATALOGUE, HANDLERS
from services.text2sql.pisql.objects import schema_from_plain, to_plain
from services.text2sql.pisql.stages.s1_catalogue import restrict
from services.text2sql.problems import DatabaseNotFound, FileUnreadable, NameTaken, NotReady
from services.text2sql.registry import ARTIFACT
from services.text2sql.routes.common import (
    Caller,
    Cursor,
    Limit,
    Once,
    WithJobs,
    WithParts,
    database_view,
)
from services.text2sql.schemas import (
    DatabaseView,
    GrantSpec,
    Name,
    RegisterDatabase,
    SchemaAnswer,
    SemanticsSpec,
)
from services.text2sql.store import DatabaseRow, GrantRow, granted_tables, list_databases, list_grants
from services.text2sql.tabular import UnreadableFileError, check_sqlite, to_sqlite
from services.text2sql.wiring import Parts
from shared.database import Page, new_id
from shared.idempotency import IdempotencyKey
from shared.jobs import Job, Jobs, accepted
from shared.principal import Principal
from shared.problems import Forbidden, PayloadTooLarge, UnsupportedMediaType, responses

PREFIX = "/v1/sql/databases"
router = APIRouter(prefix=PREFIX, tags=["sql databases"])
_SQLITE_SUFFIXES = (".sqlite", ".sqlite3", ".db")
_TABLE_SUFFIXES = (".csv", ".parquet")
_CHUNK = 1 << 20


async def _create(parts: Parts, jobs: Jobs, principal: Principal, row: DatabaseRow) -> dict[str, Any]:
    """Store a database and queue its first reading."""
    try:
        async with parts.database.session() as session:
            session.add(row)
    except IntegrityError:
        raise NameTaken(f"Your tenant has a database '{row.name}' already; choose another name.") from None
    stored = await _queue_reading(parts, jobs, principal, row.id)
    return database_view(stored, principal, None).model_dump(mode="json")


async def _queue_reading(parts: Parts, jobs: Jobs, principal: Principal, database_id: str) -> DatabaseRow:
    job = await jobs.submit(principal, HANDLERS, CATALOGUE, {"database_id": database_id})
    async with parts.database.session() as session:
        stored = await session.get_one(DatabaseRow, database_id)
        stored.job_id = job.id
        return stored


@router.post(
    "",
    status_code=201,
    response_model=DatabaseView,
    summary="Register a database by URL",
    responses=responses(NameTaken, Forbidden),
)
async def register(
    body: RegisterDatabase,
    principal: Caller,
    parts: WithParts,
    jobs: WithJobs,
    once: Once,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Its structure and contents are read by a queued job (`job_id`); until then it cannot be asked."""
    url = body.url.get_secret_value()
    dialect = parts.registry.check_url(url, principal)

    async def create() -> dict[str, Any]:
        row = DatabaseRow(
            id=new_id("database"),
            tenant=principal.tenant,
            name=body.name,
            dialect=dialect,
            source="url",
            description=body.description,
            sealed_url=parts.registry.seal(url),
            semantics=body.semantics.model_dump(mode="json"),
        )
        return await _create(parts, jobs, principal, row)

    request = {"route": PREFIX, **body.model_dump(mode="json"), "url": url}
    answer = await once.once(principal, idempotency_key, request, create)
    response.headers["Location"] = f"{PREFIX}/{answer['id']}"
    return answer


@router.post(
    "/upload",
    status_code=201,
    response_model=DatabaseView,
    summary="Upload a SQLite file, or CSV and Parquet files as tables",
    responses=responses(NameTaken, FileUnreadable, PayloadTooLarge, UnsupportedMediaType),
)
async def upload(
    principal: Caller,
    parts: WithParts,
    jobs: WithJobs,
    response: Response,
    files: Annotated[list[UploadFile], File(min_length=1, max_length=64)],
    name: Annotated[Name, Form()],
    description: Annotated[str, Form(max_length=2_000)] = "",
) -> Any:
    """One SQLite file becomes the database; CSV and Parquet files become one table each."""
    with tempfile.TemporaryDirectory(prefix="latticework-upload-") as folder:
        database = await _received(files, Path(folder), parts.settings.text2sql_upload_bytes)
        with database.open("rb") as source:
            ref = await asyncio.to_thread(parts.artifacts.put_file, source)
    row = DatabaseRow(
        id=new_id("database"),
        tenant=principal.tenant,
        name=name,
        dialect="sqlite",
        source="upload",
        description=description,
        sealed_url=parts.registry.seal(f"{ARTIFACT}{ref.sha256}"),
        semantics={},
    )
    answer = await _create(parts, jobs, principal, row)
    response.headers["Location"] = f"{PREFIX}/{answer['id']}"
    return answer


async def _received(files: list[UploadFile], folder: Path, limit: int) -> Path:
    """The uploaded files as one sound SQLite file."""
    saved: dict[str, Path] = {}
    room = limit
    for number, file in enumerate(files):
        name = Path(file.filename or f"table{number}").name
        if not name.lower().endswith((*_SQLITE_SUFFIXES, *_TABLE_SUFFIXES)):
            raise UnsupportedMediaType(f"{name}: upload .sqlite, .db, .csv or .parquet files.")
        path = folder / f"{number}.upload"
        with path.open("wb") as sink:
            while chunk := await file.read(_CHUNK):
                room -= len(chunk)
                if room < 0:
                    raise PayloadTooLarge(f"Uploads may have at most {limit} bytes together.")
                sink.write(chunk)
        if name in saved:
            raise FileUnreadable(f"{name} was sent twice.")
        saved[name] = path
    databases = [path for name, path in saved.items() if name.lower().endswith(_SQLITE_SUFFIXES)]
    try:
        if databases:
            if len(saved) > 1:
                raise FileUnreadable("Upload either one SQLite file or tables, not both.")
            await asyncio.to_thread(check_sqlite, databases[0])
            return databases[0]
        target = folder / "tables.sqlite"
        await asyncio.to_thread(to_sqlite, saved, target)
        return target
    except UnreadableFileError as error:
        raise FileUnreadable(str(error)) from None


@router.get("", response_model=Page[DatabaseView], summary="Databases you may ask")
async def listed(principal: Caller, parts: WithParts, cursor: Cursor = None, limit: Limit = 50) -> Any:
    async with parts.database.reading() as session:
        rows, following = await list_databases(session, principal.tenant, cursor, limit)
        data = [
            database_view(row, principal, await granted_tables(session, principal.tenant, row))
            for row in rows
        ]
    return Page[DatabaseView](data=data, next=following)


@router.get(
    "/{database}", response_model=DatabaseView, summary="One database", responses=responses(DatabaseNotFound)
)
async def shown(database: str, principal: Caller, parts: WithParts) -> Any:
    row = await parts.registry.find(principal, database)
    async with parts.database.reading() as session:
        return database_view(row, principal, await granted_tables(session, principal.tenant, row))


@router.delete(
    "/{database}",
    status_code=204,
    summary="Remove a database you own",
    responses=responses(DatabaseNotFound),
)
async def removed(database: str, principal: Caller, parts: WithParts) -> None:
    row = await parts.registry.owned(principal, database)
    async with parts.database.session() as session:
        await session.execute(delete(DatabaseRow).where(DatabaseRow.id == row.id))


@router.post(
    "/{database}/refresh",
    status_code=202,
    response_model=Job,
    summary="Read the database again",
    responses=responses(DatabaseNotFound),
)
async def refreshed(database: str, principal: Caller, parts: WithParts, jobs: WithJobs) -> Response:
    row = await parts.registry.owned(principal, database)
    job = await jobs.submit(principal, HANDLERS, CATALOGUE, {"database_id": row.id})
    async with parts.database.session() as session:
        stored = await session.get_one(DatabaseRow, row.id)
        stored.job_id = job.id
    return accepted(job, "/v1/jobs")


@router.get(
    "/{database}/schema",
    response_model=SchemaAnswer,
    summary="The catalogue as far as your grants reach",
    responses=responses(DatabaseNotFound, NotReady),
)
async def schema(database: str, principal: Caller, parts: WithParts) -> Any:
    row = await parts.registry.find(principal, database)
    if row.catalogue is None:
        raise NotReady(f"The database '{row.name}' has not been read yet.")
    async with parts.database.reading() as session:
        tables = await granted_tables(session, principal.tenant, row)
    view = to_plain(restrict(schema_from_plain(row.catalogue), tables))
    return SchemaAnswer.model_validate(view)


@router.get(
    "/{database}/semantics",
    response_model=SemanticsSpec,
    summary="Export what people say about it",
    responses=responses(DatabaseNotFound),
)
async def semantics(database: str, principal: Caller, parts: WithParts) -> Any:
    row = await parts.registry.owned(principal, database)
    return SemanticsSpec.model_validate(row.semantics or {})


@router.put(
    "/{database}/semantics",
    response_model=DatabaseView,
    summary="Replace what people say about it",
    responses=responses(DatabaseNotFound),
)
async def described(database: str, body: SemanticsSpec, principal: Caller, parts: WithParts) -> Any:
    """Takes effect at once; to sample a column that is no longer sensitive, refresh."""
    row = await parts.registry.owned(principal, database)
    return database_view(await parts.registry.update_semantics(row, body), principal, None)


@router.get(
    "/{database}/grants",
    response_model=list[GrantSpec],
    summary="Who else may ask it",
    responses=responses(DatabaseNotFound),
)
async def grants(database: str, principal: Caller, parts: WithParts) -> Any:
    row = await parts.registry.owned(principal, database)
    async with parts.database.reading() as session:
        found = await list_grants(session, row.id)
    return [GrantSpec(tenant=grant.tenant, tables=grant.tables) for grant in found]


@router.put(
    "/{database}/grants",
    response_model=list[GrantSpec],
    summary="Grant a tenant all or some tables",
    responses=responses(DatabaseNotFound),
)
async def granted(database: str, body: GrantSpec, principal: Caller, parts: WithParts) -> Any:
    row = await parts.registry.owned(principal, database)
    if body.tenant == "*" and not principal.allows("admin"):
        raise Forbidden("Only a key with scope admin may share a database with every tenant.")
    async with parts.database.session() as session:
        await session.merge(GrantRow(database_id=row.id, tenant=body.tenant, tables=body.tables))
    return await grants(database, principal, parts)


@router.delete(
    "/{database}/grants/{tenant}",
    status_code=204,
    summary="Take a grant back",
    responses=responses(DatabaseNotFound),
)
async def revoked(database: str, tenant: str, principal: Caller, parts: WithParts) -> None:
    row = await parts.registry.owned(principal, database)
    async with parts.database.session() as session:
        await session.execute(
            delete(GrantRow).where(GrantRow.database_id == row.id, GrantRow.tenant == tenant)
        )
