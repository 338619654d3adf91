"""`client.jobs`: against a scripted server for what goes wrong, and against the real queue."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

import latticework
from latticework import AsyncClient, Client
from latticework.models import Job
from shared.app import create_app
from shared.jobs import Jobs, JobSettings, all_jobs_router
from shared.jobs.testing import running_worker
from shared.principal import Principal, PrincipalSigner
from shared.settings import load_settings
from tests.conftest import SECRET
from tests.integration.sdk.server import ScriptedServer, problem, serving
from tests.integration.sdk.test_cli import event, job
from tests.integration.sdk.test_streaming import events

BUSY = JSONResponse(problem(502, "bad_gateway"), status_code=502)


def test_what_is_sent(server: ScriptedServer, client: Client) -> None:
    server.answer("POST", "/v1/jobs", JSONResponse(job(), status_code=202))
    late = datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    client.jobs.submit("a", {"b": 1}, deadline=late, depends_on=["job_0"], idempotency_key="mine")
    assert json.loads(server.bodies[0]) == {
        "kind": "a",
        "parameters": {"b": 1},
        "deadline": "2026-01-01T10:00:00+00:00",
        "depends_on": ["job_0"],
    }
    assert server.requests[0].headers["idempotency-key"] == "mine"
    server.answer("GET", "/v1/jobs", JSONResponse({"data": [job()], "next": None}))
    assert client.jobs.list(state=["queued", "running"], kind="a", page_size=7).take(3)[0].id == "job_1"
    assert server.requests[1].url.query == "state=queued&state=running&kind=a&limit=7"


def test_events_of_a_retried_job_go_on_after_its_failure(server: ScriptedServer, client: Client) -> None:
    told = [event(1, "started"), event(2, "failed"), event(3, "queued"), event(4, "succeeded")]
    server.answer("GET", "/v1/jobs/job_1/events", events(*told))
    assert [one.sequence for one in client.jobs.events("job_1")] == [1, 2, 3, 4]
    assert len(server.requests) == 1


def test_events_survive_twenty_breaks(server: ScriptedServer, client: Client) -> None:
    async def one_each_time(request: Request) -> Response:
        last = int(request.headers.get("last-event-id", 0))
        return events(event(last + 1, "succeeded" if last == 19 else "progress", progress=last / 20))

    server.on("GET", "/v1/jobs/job_1/events", one_each_time)
    assert [one.sequence for one in client.jobs.events("job_1")] == list(range(1, 21))
    assert [one.sequence for one in client.jobs.events("job_1", after=17)] == [18, 19, 20]


def test_waiting_tells_every_change_and_outlasts_a_restart(server: ScriptedServer, client: Client) -> None:
    done = JSONResponse(job(state="succeeded", progress=1.0, result={"a": 1}))
    half = JSONResponse(job(progress=0.5))
    server.answer("GET", "/v1/jobs/job_1", half, half, *[BUSY] * 4, done)
    seen: list[Job] = []
    assert client.jobs.wait("job_1", progress=seen.append).result == {"a": 1}
    assert [one.progress for one in seen] == [0.5, 1.0]


@pytest.mark.parametrize(
    ("state", "error"), [("failed", latticework.JobFailed), ("cancelled", latticework.JobCancelled)]
)
def test_waiting_for_a_job_that_does_not_succeed(
    server: ScriptedServer, client: Client, state: str, error: type[latticework.JobError]
) -> None:
    server.answer(
        "GET", "/v1/jobs/job_1", JSONResponse(job(state=state, problem=problem(500, "x", "Out of luck.")))
    )
    with pytest.raises(error) as caught:
        client.jobs.wait("job_1")
    assert caught.value.job.state == state
    assert client.jobs.wait("job_1", check=False).state == state


def test_waiting_ends_in_time(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/jobs/job_1", JSONResponse(job()))
    with pytest.raises(latticework.WaitTimeout, match=r"still running after 0\.2 s") as caught:
        client.jobs.wait("job_1", timeout=0.2)
    assert caught.value.job.id == "job_1"


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> JobSettings:
    return load_settings(
        JobSettings, principal_secret=SECRET, home=tmp_path, redis_url=redis_url,
        jobs_modules=["shared.jobs.diagnostics"],
    )  # fmt: skip


@pytest.fixture
def real_queue(settings: JobSettings) -> Iterator[str]:
    jobs = Jobs(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.jobs = jobs
        async with jobs:
            yield

    routers = [all_jobs_router()]
    app = create_app(service="gateway", settings=settings, title="jobs", routers=routers, lifespan=lifespan)
    with serving(app, lifespan="on") as url:
        yield url


def token(**changes: Any) -> str:
    principal = Principal("key_1", "tenant-1", frozenset({"admin"}))
    return PrincipalSigner(SECRET).sign(principal, audience="gateway", **changes)


async def test_job_from_submission_to_its_end(real_queue: str, settings: JobSettings) -> None:
    async with AsyncClient(real_queue, token()) as client, running_worker(settings, ["diagnostics"]):
        assert {kind.kind async for kind in client.jobs.kinds()} >= {"diagnostics.sleep", "diagnostics.cpu"}
        submitted = await client.jobs.submit("diagnostics.sleep", {"seconds": 0.2})
        seen = [one async for one in client.jobs.events(submitted.id)]
        assert [one.sequence for one in seen] == list(range(1, len(seen) + 1))
        assert (seen[0].type, seen[-1].type) == ("queued", "succeeded")
        done = await client.jobs.wait(submitted.id, timeout=30)
        assert done.state == "succeeded"
        assert done.finished_at is not None
        assert done.finished_at <= datetime.now(UTC)
        assert [one async for one in client.jobs.events(submitted.id, after=len(seen))] == []
        assert [one.id async for one in client.jobs.list(state="succeeded")] == [submitted.id]

        endless = await client.jobs.submit("diagnostics.sleep", {"seconds": 60})
        await client.jobs.cancel(endless.id)
        with pytest.raises(latticework.JobCancelled):
            await client.jobs.wait(endless.id, timeout=30)
        assert (await client.jobs.retry(endless.id)).state == "queued"
        await client.jobs.cancel(endless.id)
        with pytest.raises(latticework.Conflict):
            await client.jobs.cancel(submitted.id)
        with pytest.raises(latticework.NotFound):
            await client.jobs.get("job_00000000000000000000000000")
