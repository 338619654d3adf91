"""Routes of queued work: the same under every service's prefix, and for all of it at the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from shared.database import Page
from shared.idempotency import IdempotencyConflict, IdempotencyKey
from shared.jobs import diagnostics
from shared.jobs.client import Jobs
from shared.jobs.following import follow
from shared.jobs.handlers import Handlers, HandlerSpec
from shared.jobs.problems import JobFinished, JobNotFound, JobNotRetryable
from shared.jobs.schemas import Job, JobEvent, JobKind, JobState, JobSummary, SubmitJob
from shared.principal import Principal, current_principal, requires
from shared.problems import BadRequest, responses

HEARTBEAT_SECONDS = 15.0
ALL_JOBS_PREFIX = "/v1/jobs"

JobId = Annotated[str, Path(max_length=40, description="the id of the job")]


def jobs_of(request: Request) -> Jobs:
    """FastAPI dependency: the queue that the application's lifespan has opened."""
    jobs: Jobs = request.app.state.jobs
    return jobs


Queue = Annotated[Jobs, Depends(jobs_of)]


def accepted(job: Job, prefix: str) -> JSONResponse:
    """202 with the job and where to find it."""
    return JSONResponse(
        job.model_dump(mode="json"), status_code=202, headers={"Location": f"{prefix}/{job.id}"}
    )


def jobs_router(kinds: Handlers, *, prefix: str, scope: str, tags: list[str] | None = None) -> APIRouter:
    """Submit, list, look at, cancel, retry and follow the jobs of `kinds`, for principals with `scope`."""
    allowed = Annotated[Principal, Depends(requires(scope))]
    return _router(kinds, frozenset(kinds), prefix, allowed, tags or ["jobs"])


def all_jobs_router(kinds: Handlers = diagnostics.HANDLERS) -> APIRouter:
    """Every job the principal may see, whichever service owns it; only `kinds` can be submitted here."""
    return _router(kinds, None, ALL_JOBS_PREFIX, Annotated[Principal, Depends(current_principal)], ["jobs"])


def _router(
    handlers: Handlers, among: frozenset[str] | None, prefix: str, caller: object, tags: list[str]
) -> APIRouter:
    router = APIRouter(prefix=prefix, tags=list(tags))
    _add_collection(router, handlers, among, prefix, caller)
    _add_item(router, among, prefix, caller)
    _add_events(router, among, caller)
    return router


def _add_collection(
    router: APIRouter, handlers: Handlers, among: frozenset[str] | None, prefix: str, caller: object
) -> None:
    async def submit(
        body: SubmitJob, principal: Principal, jobs: Queue, idempotency_key: IdempotencyKey = None
    ) -> Response:
        job = await jobs.submit(
            principal,
            handlers,
            body.kind,
            body.parameters,
            idempotency_key=idempotency_key,
            priority=body.priority,
            not_before=body.not_before,
            deadline=body.deadline,
            depends_on=body.depends_on,
            timeout_s=body.timeout,
        )
        return accepted(job, prefix)

    async def listing(
        principal: Principal,
        jobs: Queue,
        state: Annotated[list[JobState] | None, Query(description="only these states")] = None,
        kind: Annotated[list[str] | None, Query(description="only these kinds", max_length=50)] = None,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Page[JobSummary]:
        data, following = await jobs.list(
            principal, among=among, states=state or (), kinds=kind or (), cursor=cursor, limit=limit
        )
        return Page(data=list(data), next=following)

    async def kinds(principal: Principal) -> Page[JobKind]:
        return Page(data=[describe(kind, spec) for kind, spec in sorted(handlers.items())])

    for function in (submit, listing, kinds):
        function.__annotations__["principal"] = caller
    router.post(
        "",
        status_code=202,
        summary="Queue a job",
        response_model=Job,
        responses=responses(IdempotencyConflict),
    )(submit)
    router.get("", summary="The jobs, newest first")(listing)
    router.get("/kinds", summary="What can be queued here")(kinds)


def describe(kind: str, spec: HandlerSpec) -> JobKind:
    """A kind as callers see it."""
    return JobKind(
        kind=kind,
        pool=spec.pool,
        scope=spec.scope,
        description=spec.description,
        parameters=spec.parameters.model_json_schema(),
        timeout=spec.timeout_s,
        memory_limit_bytes=spec.memory_limit_bytes,
        max_attempts=spec.max_attempts,
    )


def _add_item(router: APIRouter, among: frozenset[str] | None, prefix: str, caller: object) -> None:
    async def get(job_id: JobId, principal: Principal, jobs: Queue) -> Job:
        return await jobs.get(principal, job_id, among)

    async def cancel(job_id: JobId, principal: Principal, jobs: Queue) -> Response:
        return accepted(await jobs.cancel(principal, job_id, among), prefix)

    async def retry(job_id: JobId, principal: Principal, jobs: Queue) -> Response:
        return accepted(await jobs.retry(principal, job_id, among), prefix)

    for function in (get, cancel, retry):
        function.__annotations__["principal"] = caller
    router.get("/{job_id}", summary="One job", responses=responses(JobNotFound))(get)
    router.post(
        "/{job_id}/cancel",
        status_code=202,
        summary="Stop a job",
        response_model=Job,
        responses=responses(JobNotFound, JobFinished),
    )(cancel)
    router.post(
        "/{job_id}/retry",
        status_code=202,
        summary="Queue a failed or cancelled job again, from its checkpoint",
        response_model=Job,
        responses=responses(JobNotFound, JobNotRetryable),
    )(retry)


def _add_events(router: APIRouter, among: frozenset[str] | None, caller: object) -> None:
    async def events(
        request: Request,
        job_id: JobId,
        principal: Principal,
        jobs: Queue,
        after: Annotated[int, Query(ge=0, description="the last sequence number already seen")] = 0,
        last_event_id: Annotated[
            str | None, Header(description="like `after`, and stronger", max_length=20)
        ] = None,
    ) -> Response:
        last = _sequence(last_event_id) if last_event_id else after
        job = await jobs.get(principal, job_id, among)
        if job.state.is_final and not await jobs.has_events(job_id, last):
            return Response(status_code=204)
        state = request.app.state

        async def stream() -> AsyncIterator[bytes]:
            # The first bytes at once: they tell clients and proxies that the stream is open.
            yield b": open\n\n"
            async for event in follow(
                jobs.database,
                jobs.hub,
                job_id,
                last,
                quiet_seconds=HEARTBEAT_SECONDS,
                enough=lambda: bool(getattr(state, "draining", False)),
            ):
                yield b": alive\n\n" if event is None else server_sent(event)

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    events.__annotations__["principal"] = caller
    router.get(
        "/{job_id}/events",
        summary="What happens to a job, as server-sent events, resumable by Last-Event-ID",
        response_class=StreamingResponse,
        responses=_EVENT_RESPONSES,
    )(events)


_EVENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events with `id` (sequence number), `event` (type) and `data` (a JobEvent); "
        "the stream ends after the event that ends the job",
        "content": {"text/event-stream": {}},
    },
    204: {"description": "The job is over and every event has been seen: do not reconnect"},
    **responses(JobNotFound),
}


def server_sent(event: JobEvent) -> bytes:
    """One event on the wire."""
    data = orjson.dumps(event.model_dump(mode="json"))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.sequence, event.type.encode(), data)


def _sequence(last_event_id: str) -> int:
    if not (last_event_id.isascii() and last_event_id.isdigit()):
        raise BadRequest("Last-Event-ID must be the number of an event of this job.")
    return int(last_event_id)
