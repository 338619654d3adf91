"""`/v1/sql/evaluations`: compare configurations over questions with gold, as a queued job."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from fastapi import APIRouter, Response

from services.text2sql.jobs import EVALUATION, HANDLERS
from services.text2sql.problems import DatabaseNotFound, EvaluationNotFound, NotReady
from services.text2sql.routes.common import Caller, Cursor, Limit, WithJobs, WithParts
from services.text2sql.schemas import EvaluateQuestions, EvaluationView
from shared.database import Page
from shared.idempotency import IdempotencyKey
from shared.jobs import Job, Jobs, JobSummary, accepted
from shared.principal import Principal
from shared.problems import NotFound, responses

PREFIX = "/v1/sql/evaluations"
router = APIRouter(prefix=PREFIX, tags=["sql evaluations"])
_KINDS = frozenset({EVALUATION})
_FILES = {
    "json": ("report_sha256", "application/json"),
    "markdown": ("markdown_sha256", "text/markdown; charset=utf-8"),
    "png": ("plot_sha256", "image/png"),
}


@router.post(
    "",
    status_code=202,
    response_model=Job,
    summary="Start an evaluation",
    responses=responses(DatabaseNotFound, NotReady),
)
async def started(
    body: EvaluateQuestions,
    principal: Caller,
    parts: WithParts,
    jobs: WithJobs,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """The job's result holds the summary; the whole report is at `/{id}/report`."""
    for name in sorted({item.database for item in body.items}):
        await parts.registry.access(principal, name)
    content = body.model_dump_json().encode()
    ref = await asyncio.to_thread(parts.artifacts.put_bytes, content)
    job = await jobs.submit(
        principal,
        HANDLERS,
        EVALUATION,
        {
            "request_sha256": ref.sha256,
            "name": body.name,
            "questions": len(body.items),
            "configurations": list(body.configurations),
        },
        idempotency_key=idempotency_key,
    )
    return accepted(job, PREFIX)


async def _found(jobs: Jobs, principal: Principal, evaluation_id: str) -> Job:
    try:
        return await jobs.get(principal, evaluation_id, _KINDS)
    except NotFound:
        raise EvaluationNotFound(f"There is no evaluation '{evaluation_id}'.") from None


@router.get("", response_model=Page[JobSummary], summary="Your tenant's evaluations, newest first")
async def listed(principal: Caller, jobs: WithJobs, cursor: Cursor = None, limit: Limit = 50) -> Any:
    data, following = await jobs.list(principal, among=_KINDS, cursor=cursor, limit=limit)
    return Page[JobSummary](data=list(data), next=following)


@router.get(
    "/{evaluation_id}",
    response_model=EvaluationView,
    summary="An evaluation and its summary",
    responses=responses(EvaluationNotFound),
)
async def shown(evaluation_id: str, principal: Caller, jobs: WithJobs) -> Any:
    job = await _found(jobs, principal, evaluation_id)
    return EvaluationView(
        id=job.id,
        name=str(job.parameters["name"]),
        state=job.state,
        progress=job.progress,
        message=job.message,
        report=(job.result or {}).get("report"),
        created_at=job.created_at,
    )


@router.get(
    "/{evaluation_id}/report",
    summary="The whole report as JSON, Markdown or a plot",
    responses={
        **responses(EvaluationNotFound, NotReady),
        200: {"content": {kind: {} for _, kind in _FILES.values()}},
    },
)
async def report(
    evaluation_id: str,
    principal: Caller,
    parts: WithParts,
    jobs: WithJobs,
    format: Literal["json", "markdown", "png"] = "json",
) -> Response:
    job = await _found(jobs, principal, evaluation_id)
    if not job.result:
        raise NotReady(f"The evaluation is {job.state}; its report comes when it has succeeded.")
    name, media_type = _FILES[format]
    content = await asyncio.to_thread(parts.artifacts.read, job.result[name])
    return Response(content, media_type=media_type)
