"""What the routes share: the caller, the parts, views of stored rows."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Query, Request

from services.text2sql.schemas import DatabaseView, ExampleView, QuestionView
from services.text2sql.store import DatabaseRow, ExampleRow, QuestionRow
from services.text2sql.wiring import Parts
from shared.idempotency import Idempotency
from shared.jobs import Jobs
from shared.principal import Principal, requires

Caller = Annotated[Principal, Depends(requires("sql"))]
Limit = Annotated[int, Query(ge=1, le=200)]
Cursor = Annotated[str | None, Query(max_length=200)]


def parts_of(request: Request) -> Parts:
    """FastAPI dependency: the parts that the lifespan has made."""
    parts: Parts = request.app.state.parts
    return parts


def jobs_of(request: Request) -> Jobs:
    """FastAPI dependency: the queue."""
    jobs: Jobs = request.app.state.jobs
    return jobs


def once_of(request: Request) -> Idempotency:
    """FastAPI dependency: answers of repeated requests."""
    once: Idempotency = request.app.state.idempotency
    return once


WithParts = Annotated[Parts, Depends(parts_of)]
WithJobs = Annotated[Jobs, Depends(jobs_of)]
Once = Annotated[Idempotency, Depends(once_of)]


def database_view(row: DatabaseRow, principal: Principal, tables: list[str] | None) -> DatabaseView:
    """A database as the caller sees it; `tables` None means every table."""
    names = [table["name"] for table in (row.catalogue or {}).get("tables", ())]
    owned = row.tenant == principal.tenant
    fields: dict[str, Any] = {
        "id": row.id,
        "name": row.name,
        "dialect": row.dialect,
        "source": row.source,
        "description": row.description,
        "state": row.state,
        "problem": row.problem,
        "fingerprint": row.fingerprint,
        "owned": owned,
        "tables": names if tables is None else [name for name in names if name in tables],
        "job_id": row.job_id if owned else "",
        "created_at": row.created_at,
        "refreshed_at": row.refreshed_at,
    }
    return DatabaseView(**fields)


def question_view(row: QuestionRow) -> QuestionView:
    """A question with its answer."""
    request = row.request
    return QuestionView.model_validate(
        {
            "id": row.id,
            "database_id": row.database_id,
            "question": request["question"],
            "evidence": request["evidence"],
            "profile": request["profile"],
            "state": row.state,
            "answer": _answer(row.answer),
            "problem": row.problem,
            "feedback": row.feedback,
            "job_id": row.job_id,
            "created_at": row.created_at,
            "finished_at": row.finished_at,
        }
    )


def _answer(stored: dict[str, Any] | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    result = stored["result"]
    if result is None:
        return stored
    shown = {
        "columns": result["columns"],
        "rows": result["rows"],
        "row_count": result["row_count"],
        "truncated": result["row_count"] > len(result["rows"]),
    }
    return {**stored, "result": shown}


def example_view(row: ExampleRow, fingerprint: str) -> ExampleView:
    """An example; stale when its database's structure has another fingerprint now."""
    return ExampleView(
        id=row.id,
        database_id=row.database_id,
        question=row.question,
        sql=row.sql,
        source=row.source,
        stale=bool(fingerprint) and fingerprint != row.fingerprint,
        created_at=row.created_at,
    )
