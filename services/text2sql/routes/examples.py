"""`/v1/sql/examples`: approved question/SQL pairs."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy import delete, select

from services.text2sql.examples import check_sql, store_example
from services.text2sql.problems import DatabaseNotFound, ExampleNotFound, NotReady, SqlRefused
from services.text2sql.routes.common import Caller, Cursor, Limit, Once, WithParts, example_view
from services.text2sql.schemas import AddExamples, ExamplesAdded, ExampleView
from services.text2sql.store import DatabaseRow, ExampleRow, list_examples
from shared.database import Page
from shared.idempotency import IdempotencyKey
from shared.problems import responses

PREFIX = "/v1/sql/examples"
router = APIRouter(prefix=PREFIX, tags=["sql examples"])


@router.post(
    "",
    status_code=201,
    response_model=ExamplesAdded,
    summary="Add checked pairs",
    responses=responses(DatabaseNotFound, NotReady, SqlRefused),
)
async def added(
    body: AddExamples,
    principal: Caller,
    parts: WithParts,
    once: Once,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Every statement passes the gate and runs before any is kept."""

    async def create() -> dict[str, Any]:
        names = {example.database for example in body.examples}
        accesses = {name: await parts.registry.access(principal, name) for name in names}
        for example in body.examples:
            await check_sql(parts, accesses[example.database], example.sql)
        stored = []
        for example in body.examples:
            access = accesses[example.database]
            row = await store_example(parts, principal, access, example.question, example.sql, "added")
            stored.append(example_view(row, access.row.fingerprint).model_dump(mode="json"))
        return {"data": stored}

    return await once.once(
        principal, idempotency_key, {"route": PREFIX, **body.model_dump(mode="json")}, create
    )


@router.get(
    "",
    response_model=Page[ExampleView],
    summary="Your tenant's pairs, newest first",
    responses=responses(DatabaseNotFound),
)
async def listed(
    principal: Caller,
    parts: WithParts,
    database: Annotated[str | None, Query(max_length=64)] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Any:
    database_id = (await parts.registry.find(principal, database)).id if database else None
    async with parts.database.reading() as session:
        rows, following = await list_examples(session, principal.tenant, database_id, cursor, limit)
        known = await session.execute(
            select(DatabaseRow.id, DatabaseRow.fingerprint).where(
                DatabaseRow.id.in_({row.database_id for row in rows})
            )
        )
        fingerprints: dict[str, str] = {found.id: found.fingerprint for found in known}
    data = [example_view(row, fingerprints.get(row.database_id, "")) for row in rows]
    return Page[ExampleView](data=data, next=following)


@router.delete(
    "/{example_id}", status_code=204, summary="Remove a pair", responses=responses(ExampleNotFound)
)
async def removed(example_id: str, principal: Caller, parts: WithParts) -> None:
    async with parts.database.session() as session:
        found = await session.scalar(
            select(ExampleRow).where(ExampleRow.id == example_id, ExampleRow.tenant == principal.tenant)
        )
        if found is None:
            raise ExampleNotFound(f"There is no example '{example_id}'.")
        await session.execute(delete(ExampleRow).where(ExampleRow.id == example_id))
