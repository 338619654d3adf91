"""The routes as a client meets them, on a service and at the gateway."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from shared.app import create_app
from shared.jobs import Jobs, JobSettings, all_jobs_router, jobs_router
from shared.jobs.testing import running_worker
from shared.principal import Principal, PrincipalSigner
from tests.conftest import SECRET
from tests.integration.jobs.conftest import wait_for
from tests.integration.jobs.kinds import HANDLERS

PREFIX = "/v1/sql/evaluations"


def make_app(settings: JobSettings, jobs: Jobs) -> FastAPI:
    """A service with one kind under its own prefix, and the routes of the gateway beside it."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.jobs = jobs
        yield

    mine = {kind: HANDLERS[kind] for kind in ("test.echo", "test.refuse")}
    app = create_app(
        service="test",
        settings=settings,
        title="Test",
        routers=[jobs_router(mine, prefix=PREFIX, scope="sql"), all_jobs_router()],
        lifespan=lifespan,
        readiness={"jobs": jobs.ready},
    )
    jobs.metrics(app.state.registry)
    app.state.jobs = jobs
    return app


def headers(*scopes: str, tenant: str = "acme") -> dict[str, str]:
    """The principal token of a caller."""
    principal = Principal(key_id="key_1", tenant=tenant, scopes=frozenset(scopes))
    return {"Authorization": f"Bearer {PrincipalSigner(SECRET).sign(principal, audience='test')}"}


@pytest.fixture
def database_url(tmp_path: Path) -> str:
    """The routes do not care which database it is."""
    return f"sqlite:///{tmp_path / 'test.db'}"


@pytest.fixture
async def client(settings: JobSettings, jobs: Jobs) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody with the scope `sql`."""
    transport = httpx.ASGITransport(make_app(settings, jobs))
    async with httpx.AsyncClient(
        transport=transport, base_url="http://test", headers=headers("sql")
    ) as client:
        yield client


def body(**changes: Any) -> dict[str, Any]:
    """A request for a job."""
    return {"kind": "test.echo", "parameters": {"a": 1}, **changes}


async def test_submitting_answers_with_the_job_and_its_place(client: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "abc"}
    answer = await client.post(PREFIX, json=body(priority=3), headers=key)
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["Location"] == f"{PREFIX}/{job['id']}"
    assert (job["state"], job["priority"], job["parameters"]) == ("queued", 3, {"a": 1})
    assert (await client.get(answer.headers["Location"])).json() == job
    assert (await client.get(f"/v1/jobs/{job['id']}")).json() == job
    again = await client.post(PREFIX, json=body(priority=3), headers=key)
    assert (again.status_code, again.json()["id"]) == (202, job["id"])
    other = await client.post(PREFIX, json=body(priority=4), headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    listed = (await client.get(PREFIX)).json()
    assert [entry["id"] for entry in listed["data"]] == [job["id"]]
    assert "parameters" not in listed["data"][0]
    assert (await client.get("/v1/jobs", params={"state": ["failed", "running"]})).json()["data"] == []


@pytest.mark.parametrize(
    ("changes", "location"),
    [
        ({"kind": "test.busy"}, None),
        ({"surprise": 1}, "body.surprise"),
        ({"priority": 101}, "body.priority"),
        ({"timeout": -1}, "body.timeout"),
        ({"deadline": "2001-01-01T00:00:00Z"}, "body.deadline"),
        ({"deadline": "2031-01-01T00:00:00"}, "body.deadline"),
        ({"depends_on": ["job_none"]}, "body.depends_on.0"),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(
    client: httpx.AsyncClient, changes: dict[str, Any], location: str | None
) -> None:
    answer = await client.post(PREFIX, json=body(**changes))
    assert answer.status_code == 422, answer.text
    problem = answer.json()
    if location is None:
        assert problem["code"] == "unknown_kind"
        assert "test.echo" in problem["detail"]
    else:
        assert problem["errors"][0]["location"] == location


async def test_scopes_and_kinds_bound_each_router(client: httpx.AsyncClient) -> None:
    diagnostics = {"kind": "diagnostics.sleep", "parameters": {"seconds": 1}}
    assert (await client.post("/v1/jobs", json=diagnostics)).status_code == 403
    admin = headers("admin")
    job = (await client.post("/v1/jobs", json=diagnostics, headers=admin)).json()
    wrong = {**diagnostics, "parameters": {"seconds": -1}}
    refused = await client.post("/v1/jobs", json=wrong, headers=admin)
    assert refused.json()["errors"][0]["location"] == "body.parameters.seconds"
    assert (await client.get(f"/v1/jobs/{job['id']}")).status_code == 404, "not of my scopes"
    assert (await client.get(f"{PREFIX}/{job['id']}", headers=admin)).status_code == 404, "another's kind"
    stranger = headers("admin", tenant="other")
    assert (await client.get(f"/v1/jobs/{job['id']}", headers=stranger)).status_code == 404
    assert (await client.get(PREFIX, headers=headers("vision"))).status_code == 403
    assert (await client.get("/v1/jobs", headers={"Authorization": ""})).status_code == 401
    kinds = (await client.get(f"{PREFIX}/kinds")).json()["data"]
    assert [kind["kind"] for kind in kinds] == ["test.echo", "test.refuse"]
    schema = (await client.get("/v1/jobs/kinds", headers=admin)).json()["data"][1]["parameters"]
    assert schema["properties"]["seconds"]["maximum"] == 86_400


async def test_cancel_and_retry(client: httpx.AsyncClient) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    job = (await client.post(PREFIX, json=body(not_before=later))).json()
    place = f"{PREFIX}/{job['id']}"
    assert (await client.post(f"{place}/retry")).json()["code"] == "job_not_retryable"
    cancelled = await client.post(f"{place}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    again = await client.post(f"{place}/retry")
    assert (again.status_code, again.json()["state"]) == (202, "queued")
    missing = await client.post(f"{PREFIX}/job_none/cancel")
    assert (missing.status_code, missing.json()["code"]) == (404, "job_not_found")


async def test_the_events_of_a_finished_job(
    client: httpx.AsyncClient, settings: JobSettings, jobs: Jobs, principal: Principal
) -> None:
    job = (await client.post(PREFIX, json=body(kind="test.refuse"))).json()
    async with running_worker(settings, ["test"]):
        await wait_for(jobs, principal, job["id"])
    place = f"{PREFIX}/{job['id']}/events"
    answer = await client.get(place)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert answer.headers["X-Accel-Buffering"] == "no"
    blocks = [block for block in answer.text.split("\n\n") if block and not block.startswith(":")]
    assert [block.splitlines()[0] for block in blocks] == ["id: 1", "id: 2", "id: 3"]
    assert [block.splitlines()[1] for block in blocks] == ["event: queued", "event: started", "event: failed"]
    last = json.loads(blocks[-1].splitlines()[2].removeprefix("data: "))
    assert (last["job_id"], last["data"]["problem"]["code"]) == (job["id"], "bad_request")
    rest = await client.get(place, headers={"Last-Event-ID": "2"})
    assert rest.text.count("event: ") == 1
    assert (await client.get(place, params={"after": 3})).status_code == 204
    bad = await client.get(place, headers={"Last-Event-ID": "x"})
    assert (bad.status_code, bad.json()["status"]) == (400, 400)
    finished = await client.post(f"{PREFIX}/{job['id']}/cancel")
    assert (finished.status_code, finished.json()["code"]) == (409, "job_finished")


async def test_the_description_names_every_route_and_its_problems(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    for prefix in (PREFIX, "/v1/jobs"):
        assert set(document["paths"][prefix]) == {"post", "get"}
        assert "409" in document["paths"][f"{prefix}/{{job_id}}/cancel"]["post"]["responses"]
        assert "text/event-stream" in json.dumps(document["paths"][f"{prefix}/{{job_id}}/events"])
        submit = document["paths"][prefix]["post"]
        assert submit["responses"]["202"]["content"]["application/json"]["schema"]["$ref"].endswith("/Job")
        assert any(field["name"] == "Idempotency-Key" for field in submit["parameters"])
    operations = [entry["operationId"] for path in document["paths"].values() for entry in path.values()]
    assert len(operations) == len(set(operations))
