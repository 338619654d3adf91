"""The application factory: what every service does without asking for it."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict
from sqlalchemy import text

from shared.app import create_app, free_port
from shared.database import Database
from shared.principal import CurrentPrincipal, Principal, PrincipalSigner, requires
from shared.problems import Conflict
from shared.settings import ServiceSettings, load_settings

SECRET = "s" * 40
ROUTER = APIRouter()


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: int


@ROUTER.get("/v1/whoami")
async def whoami(principal: CurrentPrincipal) -> dict[str, Any]:
    return {"tenant": principal.tenant, "request_id": principal.request_id}


@ROUTER.post("/v1/things")
async def make(thing: Thing, principal: Annotated[Principal, Depends(requires("things"))]) -> Thing:
    if thing.size == 409:
        raise Conflict("There is one of that size.")
    if thing.size == 500:
        raise RuntimeError("a secret of the implementation")
    return thing


@ROUTER.get("/v1/rows")
async def rows(request: Request) -> int:
    async with request.app.state.database.session() as session:
        return int((await session.execute(text(request.query_params["sql"]))).scalar_one())


@ROUTER.post("/v1/bytes")
async def count(request: Request) -> int:
    return sum([len(chunk) async for chunk in request.stream()])


async def not_ready() -> str | None:
    return "the model is not loaded"


async def broken() -> str | None:
    raise ConnectionRefusedError("no database")


def app_client(**options: Any) -> httpx.AsyncClient:
    settings = load_settings(
        ServiceSettings, principal_secret=SECRET, body_limit_bytes=1000, metrics_token="scrape-me-please"
    )
    database = options.pop("database", None)
    app = create_app(service="things", settings=settings, title="Things", routers=[ROUTER], **options)
    app.state.database = database
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://things")


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with app_client() as client:
        yield client


def token(*scopes: str, tenant: str = "acme", audience: str = "things") -> dict[str, str]:
    signed = PrincipalSigner(SECRET).sign(Principal("key_1", tenant, frozenset(scopes)), audience=audience)
    return {"Authorization": f"Bearer {signed}"}


async def test_no_answer_without_a_principal(client: httpx.AsyncClient) -> None:
    for path in ("/v1/whoami", "/metrics", "/openapi.json", "/docs", "/nowhere"):
        response = await client.get(path)
        assert response.status_code == 401, path
        assert response.headers["content-type"] == "application/problem+json"
    assert (await client.get("/healthz")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200


async def test_who_gets_in(client: httpx.AsyncClient) -> None:
    cases = [
        (token(), 200),
        (token() | {"Lattice-Tenant": "acme"}, 200),
        (token() | {"Lattice-Tenant": "rival"}, 403),
        (token(audience="elsewhere"), 401),
        ({"Authorization": "Basic eDp5"}, 401),
        ({"Authorization": "Bearer lw_something"}, 401),
    ]
    for headers, status in cases:
        assert (await client.get("/v1/whoami", headers=headers)).status_code == status, headers


async def test_the_request_id_is_kept_or_made(client: httpx.AsyncClient) -> None:
    given = await client.get("/v1/whoami", headers=token() | {"X-Request-Id": "mine-1"})
    assert given.headers["x-request-id"] == given.json()["request_id"] == "mine-1"
    made = await client.get("/v1/whoami", headers=token() | {"X-Request-Id": "two words"})
    assert made.headers["x-request-id"].startswith("req_")


async def test_scopes(client: httpx.AsyncClient) -> None:
    body = {"size": 3}
    assert (await client.post("/v1/things", json=body, headers=token("things"))).status_code == 200
    assert (await client.post("/v1/things", json=body, headers=token("admin"))).status_code == 200
    refused = await client.post("/v1/things", json=body, headers=token("model"))
    assert refused.status_code == 403
    assert "'things'" in refused.json()["detail"]


async def test_every_failure_is_a_problem_document(client: httpx.AsyncClient) -> None:
    cases: list[tuple[object, int, str]] = [
        ({"size": "x"}, 422, "invalid_request"),
        ({"size": 1, "colour": "red"}, 422, "invalid_request"),
        ({"size": 409}, 409, "conflict"),
        ({"size": 500}, 500, "internal_error"),
    ]
    for body, status, code in cases:
        response = await client.post("/v1/things", json=body, headers=token("things"))
        problem = response.json()
        assert (response.status_code, problem["code"]) == (status, code)
        assert response.headers["content-type"] == "application/problem+json"
        assert problem["request_id"] == response.headers["x-request-id"]
        assert "secret of the implementation" not in response.text
    assert (await client.get("/v1/things", headers=token())).json()["code"] == "method_not_allowed"
    assert (await client.get("/nowhere", headers=token())).json()["code"] == "not_found"


async def test_validation_names_the_field_and_never_echoes_the_input(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/things", json={"size": "hunter2"}, headers=token("things"))
    assert response.json()["errors"][0]["location"] == "body.size"
    assert "hunter2" not in response.text


async def test_bodies_are_cut_off_declared_or_not(client: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 300

    assert (await client.post("/v1/bytes", content=b"x" * 1000, headers=token())).json() == 1000
    for content in (b"x" * 1001, chunks()):
        response = await client.post("/v1/bytes", content=content, headers=token())
        assert response.status_code == 413
        assert response.json()["code"] == "payload_too_large"


async def test_readiness_names_what_is_not_ready() -> None:
    async with app_client(readiness={"model": not_ready, "database": broken}) as client:
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["not_ready"] == {
        "model": "the model is not loaded",
        "database": "ConnectionRefusedError: no database",
    }


async def test_metrics_are_for_admins_and_the_scraper(client: httpx.AsyncClient) -> None:
    await client.get("/v1/whoami", headers=token())
    assert (await client.get("/metrics", headers=token("model"))).status_code == 403
    for headers in (token("admin"), {"Authorization": "Bearer scrape-me-please"}):
        text = (await client.get("/metrics", headers=headers)).text
        assert 'route="/v1/whoami",service="things",status="200"' in text
    assert (
        await client.get("/v1/whoami", headers={"Authorization": "Bearer scrape-me-please"})
    ).status_code == 401


async def test_the_description_documents_our_problems_and_not_the_frameworks(
    client: httpx.AsyncClient,
) -> None:
    document = (await client.get("/openapi.json", headers=token())).json()
    answers = document["paths"]["/v1/things"]["post"]["responses"]
    assert answers["422"]["content"].keys() == {"application/problem+json"}
    assert "HTTPValidationError" not in document["components"]["schemas"]
    assert "ProblemDocument" in document["components"]["schemas"]
    assert "FieldError" in document["components"]["schemas"]


async def test_a_database_that_is_away_is_said_and_may_be_tried_again() -> None:
    database = Database(f"postgresql://nobody:secret@127.0.0.1:{free_port()}/none")
    async with app_client(database=database) as client:
        answer = await client.get("/v1/rows", params={"sql": "SELECT 1"}, headers=token())
    await database.close()
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    assert "secret" not in answer.text


async def test_a_locked_database_is_away_and_a_wrong_statement_is_our_fault(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'things.db'}")
    async with app_client(database=database) as client:
        good = await client.get("/v1/rows", params={"sql": "SELECT 7"}, headers=token())
        wrong = await client.get("/v1/rows", params={"sql": "SELECT a FROM nowhere"}, headers=token())
        async with database.engine.connect() as connection:
            await connection.exec_driver_sql("PRAGMA busy_timeout = 50")
        locker = sqlite3.connect(tmp_path / "things.db", isolation_level=None)
        locker.execute("BEGIN EXCLUSIVE")
        locked = await client.get("/v1/rows", params={"sql": "SELECT 7"}, headers=token())
        locker.close()
    await database.close()
    assert (good.status_code, good.json()) == (200, 7)
    assert (wrong.status_code, wrong.json()["code"]) == (500, "internal_error")
    assert (locked.status_code, locked.json()["code"]) == (503, "database_unavailable")
