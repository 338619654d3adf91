"""`/v1/sql/questions`: ask, watch, page and download rows, give feedback, read the trace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from services.text2sql.examples import check_sql, store_example
from services.text2sql.jobs import HANDLERS, QUESTION
from services.text2sql.pisql.ports import Event
from services.text2sql.problems import (
    DatabaseNotFound,
    NoRows,
    NotReady,
    QuestionInvalid,
    QuestionNotFound,
    SqlRefused,
)
from services.text2sql.registry import Access
from services.text2sql.routes.common import (
    Caller,
    Cursor,
    Limit,
    Once,
    WithJobs,
    WithParts,
    example_view,
    question_view,
)
from services.text2sql.schemas import AskQuestion, ExampleView, Feedback, QuestionView, RowsPage
from services.text2sql.store import QuestionRow, find_question, list_questions
from services.text2sql.tabular import MEDIA_TYPES, encode
from services.text2sql.wiring import Parts
from shared.database import Page, decode_cursor, encode_cursor
from shared.idempotency import IdempotencyKey
from shared.jobs import Job, accepted
from shared.principal import Principal
from shared.problems import BadRequest, TooManyRequests, responses

PREFIX = "/v1/sql/questions"
router = APIRouter(prefix=PREFIX, tags=["sql questions"])
KEEP_ALIVE_SECONDS = 15.0


@router.post(
    "",
    response_model=QuestionView,
    summary="Ask a database in plain words",
    responses={
        **responses(DatabaseNotFound, NotReady, QuestionInvalid, TooManyRequests),
        200: {
            "description": "the question with its answer, or with `stream` what happens until then",
            "content": {"text/event-stream": {}},
        },
        202: {"model": Job, "description": "with `queue`: the job that answers"},
    },
)
async def ask(
    body: AskQuestion,
    request: Request,
    principal: Caller,
    parts: WithParts,
    jobs: WithJobs,
    once: Once,
    idempotency_key: IdempotencyKey = None,
) -> Any:
    """Answers when done; with `stream` as server-sent events; with `queue` as a job (202)."""
    access = await parts.registry.access(principal, body.database)
    if body.stream and body.queue:
        raise BadRequest("Choose either stream or queue.")
    if body.queue:
        row = await parts.asker.open_question(principal, body, access, "queued")
        job = await jobs.submit(
            principal, HANDLERS, QUESTION, {"question_id": row.id}, idempotency_key=idempotency_key
        )
        await _set_job(parts, row.id, job.id)
        answer = accepted(job, "/v1/jobs")
        answer.headers["X-Question-Id"] = row.id
        return answer
    slots: asyncio.Semaphore = request.app.state.slots
    if slots.locked():
        raise TooManyRequests("Too many questions are being answered; try again soon.", retry_after=2)
    if body.stream:
        return StreamingResponse(
            _events(slots, principal, body, access, parts),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def create() -> dict[str, Any]:
        async with slots:
            row = await parts.asker.open_question(principal, body, access)
            return question_view(await parts.asker.answer(principal, row, access)).model_dump(mode="json")

    return await once.once(
        principal, idempotency_key, {"route": PREFIX, **body.model_dump(mode="json")}, create
    )


async def _set_job(parts: Parts, question_id: str, job_id: str) -> None:
    async with parts.database.session() as session:
        stored = await session.get_one(QuestionRow, question_id)
        stored.job_id = job_id


def _frame(event: str, data: object) -> bytes:
    return b"event: " + event.encode() + b"\ndata: " + orjson.dumps(data, default=str) + b"\n\n"


async def _events(
    slots: asyncio.Semaphore, principal: Principal, body: AskQuestion, access: Access, parts: Parts
) -> AsyncIterator[bytes]:
    """Stage events as they happen, then `answer` (the whole question) or `problem`.

    A client that leaves ends the work: its model calls would be paid for nobody.
    """
    queue: asyncio.Queue[Event | None] = asyncio.Queue()

    async def work() -> QuestionRow:
        try:
            async with slots:
                row = await parts.asker.open_question(principal, body, access)
                queue.put_nowait(Event("question", {"id": row.id}))
                return await parts.asker.answer(principal, row, access, queue.put_nowait)
        finally:
            queue.put_nowait(None)

    task = asyncio.create_task(work())
    try:
        while True:
            try:
                event = await asyncio.wait_for(queue.get(), KEEP_ALIVE_SECONDS)
            except TimeoutError:
                yield b": still working\n\n"
                continue
            if event is None:
                break
            yield _frame(event.stage, dict(event.data))
        view = question_view(await task).model_dump(mode="json")
        yield _frame("problem" if view["state"] == "failed" else "answer", view)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@router.get(
    "",
    response_model=Page[QuestionView],
    summary="Your tenant's questions, newest first",
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
        rows, following = await list_questions(session, principal.tenant, database_id, cursor, limit)
    return Page[QuestionView](data=[question_view(row) for row in rows], next=following)


async def _found(parts: Parts, principal: Principal, question_id: str) -> QuestionRow:
    async with parts.database.reading() as session:
        row = await find_question(session, principal.tenant, question_id)
    if row is None:
        raise QuestionNotFound(f"There is no question '{question_id}'.")
    return row


@router.get(
    "/{question_id}",
    response_model=QuestionView,
    summary="One question with its answer",
    responses=responses(QuestionNotFound),
)
async def shown(question_id: str, principal: Caller, parts: WithParts) -> Any:
    return question_view(await _found(parts, principal, question_id))


@router.get(
    "/{question_id}/rows",
    response_model=RowsPage,
    summary="Result rows in pages, or all of them as a file",
    responses={
        **responses(QuestionNotFound, NoRows),
        200: {"content": {kind: {} for kind in MEDIA_TYPES.values()}},
    },
)
async def rows(
    question_id: str,
    principal: Caller,
    parts: WithParts,
    cursor: Cursor = None,
    limit: Annotated[int, Query(ge=1, le=5_000)] = 500,
    format: Literal["json", "csv", "parquet", "arrow"] = "json",
) -> Any:
    """`format` csv, parquet or arrow gives every kept row (at most the row cap) as one file."""
    row = await _found(parts, principal, question_id)
    if not row.rows_sha256:
        raise NoRows("The question has no rows: it failed, was refused, or is not answered yet.")
    result = await parts.asker.stored_rows(row)
    if format != "json":
        content = await asyncio.to_thread(encode, result, format)
        headers = {"Content-Disposition": f'attachment; filename="{question_id}.{format}"'}
        return Response(content, media_type=MEDIA_TYPES[format], headers=headers)
    start = 0
    if cursor is not None:
        position = decode_cursor(cursor)
        if not position.isdigit():
            raise BadRequest("The cursor is not one this list gave out.", code="invalid_cursor")
        start = int(position)
    end = start + limit
    following = encode_cursor(str(end)) if end < len(result.rows) else None
    data = [list(cells) for cells in result.rows[start:end]]
    return RowsPage(columns=list(result.columns), data=data, row_count=result.row_count, next=following)


@router.get(
    "/{question_id}/trace",
    summary="Everything needed to replay the question",
    responses=responses(QuestionNotFound),
)
async def trace(question_id: str, principal: Caller, parts: WithParts) -> Response:
    row = await _found(parts, principal, question_id)
    if not row.trace_sha256:
        raise QuestionNotFound("The question has no trace: it is not answered.")
    content = await asyncio.to_thread(parts.artifacts.read, row.trace_sha256)
    return Response(content, media_type="application/json")


@router.post(
    "/{question_id}/feedback",
    response_model=ExampleView | None,
    summary="Approve, correct or reject an answer",
    responses=responses(QuestionNotFound, DatabaseNotFound, NotReady, SqlRefused),
)
async def feedback(question_id: str, body: Feedback, principal: Caller, parts: WithParts) -> Any:
    """Approved and corrected SQL passes the gate and runs again before it becomes an example."""
    row = await _found(parts, principal, question_id)
    if body.verdict == "correct" and not body.sql:
        raise BadRequest("A correction needs its SQL.")
    example = None
    if body.verdict != "reject":
        sql = body.sql if body.verdict == "correct" else (row.answer or {}).get("sql")
        if not sql:
            raise SqlRefused("The question has no SQL to approve; send a correction.")
        access = await parts.registry.access(principal, row.database_id)
        await check_sql(parts, access, str(sql))
        stored = await store_example(
            parts, principal, access, str(row.request["question"]), str(sql), "feedback"
        )
        example = example_view(stored, access.row.fingerprint)
    async with parts.database.session() as session:
        kept = await session.get_one(QuestionRow, row.id)
        kept.feedback = {**body.model_dump(mode="json"), "example_id": example.id if example else None}
    return example
