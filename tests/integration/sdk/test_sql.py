"""`client.sql` and `lattice ask` against the real service, its real queue, and a scripted model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send
from typer.testing import CliRunner, Result

import latticework
from latticework import AsyncClient, Upload
from latticework.cli import app as lattice
from services.text2sql.app import create_app
from services.text2sql.settings import Text2SqlSettings
from shared.app import create_app as create_service
from shared.jobs import Jobs, all_jobs_router
from shared.jobs.testing import running_worker
from shared.principal import Principal, PrincipalSigner
from shared.settings import load_settings
from tests.conftest import SECRET
from tests.integration.sdk.server import ScriptedServer, serving

ORDERS = b"id,customer,total\n1,Ada,10.5\n2,Grace,20\n3,Ada,7.25\n"
SQL = "SELECT customer, SUM(total) AS spent FROM orders GROUP BY customer ORDER BY spent DESC"
QUESTION = "How much did each customer spend?"


async def scripted_model(request: Request) -> Response:
    """Whatever is asked, the answer is the SQL."""
    message = {"role": "assistant", "content": SQL}
    return JSONResponse(
        {
            "id": "c",
            "object": "chat.completion",
            "created": 1,
            "model": "scripted",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }
    )


class Front:
    """Leads to the service, and to the jobs as the gateway does."""

    def __init__(self, settings: Text2SqlSettings) -> None:
        jobs = Jobs(settings)

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            app.state.jobs = jobs
            async with jobs, self.room.router.lifespan_context(self.room):
                yield

        self.room = create_app(settings)
        self.jobs = create_service(
            service="text2sql",
            settings=settings,
            title="jobs",
            routers=[all_jobs_router()],
            lifespan=lifespan,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        to_room = scope["type"] == "http" and scope["path"].startswith("/v1/sql")
        await (self.room if to_room else self.jobs)(scope, receive, send)


@pytest.fixture
def settings(
    tmp_path: Path, redis_url: str, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> Text2SqlSettings:
    """In the environment, where the processes of the jobs find them, too."""
    server.on("POST", "/v1/chat/completions", scripted_model)
    given = {
        "PRINCIPAL_SECRET": SECRET,
        "CREDENTIALS_SECRET": SECRET,
        "HOME": str(tmp_path / "home"),
        "REDIS_URL": redis_url,
        "GATEWAY_URL": server.url,
        "TEXT2SQL_DEMO": "false",
        "TEXT2SQL_SANDBOX_WORKERS": "1",
        "JOBS_MODULES": '["services.text2sql.jobs"]',
    }
    for name, value in given.items():
        monkeypatch.setenv(f"LATTICEWORK_{name}", value)
    return load_settings(Text2SqlSettings)


@pytest.fixture
def address(settings: Text2SqlSettings) -> Iterator[str]:
    with serving(Front(settings), lifespan="on") as url:
        yield url


@pytest.fixture
def key() -> str:
    principal = Principal("key_1", "tenant-1", frozenset({"admin"}))
    return PrincipalSigner(SECRET).sign(principal, audience="text2sql")


async def test_from_files_to_answers(
    address: str, key: str, settings: Text2SqlSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncClient(address, key) as client, running_worker(settings, ["text2sql"]):
        await check_databases(client)
        await check_questions(client, tmp_path)
        await check_examples(client)
        await check_evaluation(client)
        monkeypatch.setenv("LATTICEWORK_URL", address)
        monkeypatch.setenv("LATTICEWORK_KEY", key)
        await asyncio.to_thread(check_commands, tmp_path)


async def check_databases(client: AsyncClient) -> None:
    made = await client.sql.databases.upload(
        "shop", [Upload(ORDERS, name="orders.csv")], description="a shop"
    )
    ready = await client.sql.databases.wait_ready(made.id, timeout=60)
    assert (ready.state, ready.tables, ready.source) == ("ready", ["orders"], "upload")
    assert [one.name async for one in client.sql.databases.list()] == ["shop"]
    schema = await client.sql.databases.schema("shop")
    assert [column.name for column in schema.tables[0].columns] == ["id", "customer", "total"]
    assert schema.tables[0].row_count == 3
    await client.sql.databases.describe("shop", {"descriptions": {"orders.total": "in euro"}})
    told = await client.sql.databases.semantics("shop")
    assert told.descriptions == {"orders.total": "in euro"}
    grants = await client.sql.databases.grant("shop", "tenant-2", tables=["orders"])
    assert [(grant.tenant, grant.tables) for grant in grants] == [("tenant-2", ["orders"])]
    await client.sql.databases.take_back("shop", "tenant-2")
    assert await client.sql.databases.grants("shop") == []
    job = await client.sql.databases.refresh("shop")
    assert (await client.jobs.wait(job.id, timeout=60)).state == "succeeded"
    with pytest.raises(latticework.NotFound):
        await client.sql.ask("nowhere", QUESTION)


async def check_questions(client: AsyncClient, folder: Path) -> None:
    asked = await client.sql.ask("shop", QUESTION, profile="direct")
    assert asked.answer is not None
    assert asked.answer.result is not None
    assert asked.answer.result.rows == [["Grace", 20], ["Ada", 17.75]]
    assert [row async for row in client.sql.questions.rows(asked.id, page_size=1)] == asked.answer.result.rows
    target = await client.sql.questions.download(asked.id, folder / "rows.csv")
    assert target.read_text().splitlines()[0] == "customer,spent"
    assert (await client.sql.questions.get(asked.id)).answer == asked.answer
    assert await client.sql.questions.trace(asked.id)

    stages = [event async for event in client.sql.questions.stream("shop", QUESTION, profile="direct")]
    assert [event.stage for event in stages][-2:] == ["answered", "answer"]
    assert stages[-1].question is not None
    assert stages[-1].question.state == "answered"

    job = await client.sql.questions.submit("shop", QUESTION, profile="direct")
    assert (await client.jobs.wait(job.id, timeout=60)).state == "succeeded"
    assert len([one async for one in client.sql.questions.list(database="shop")]) == 3

    example = await client.sql.questions.judge(asked.id, "approve")
    assert example is not None
    assert "orders" in example.sql
    assert await client.sql.questions.judge(asked.id, "reject", comment="on second thought") is None


async def check_examples(client: AsyncClient) -> None:
    (added,) = await client.sql.examples.add(
        [{"database": "shop", "question": "How many orders?", "sql": "SELECT COUNT(*) FROM orders"}]
    )
    found = [one async for one in client.sql.examples.list(database="shop")]
    assert found[0].id == added.id
    await client.sql.examples.remove(added.id)
    with pytest.raises(latticework.StatusError) as caught:
        await client.sql.examples.add([{"database": "shop", "question": "?", "sql": "DROP TABLE orders"}])
    assert caught.value.status in (400, 422)


async def check_evaluation(client: AsyncClient) -> None:
    job = await client.sql.evaluations.start(
        [{"database": "shop", "question": QUESTION, "gold": [SQL]}], configurations=["direct"]
    )
    await client.jobs.wait(job.id, timeout=60)
    assert [one.id async for one in client.sql.evaluations.list()] == [job.id]
    assert (await client.sql.evaluations.get(job.id)).report
    assert "direct" in (await client.sql.evaluations.report(job.id, format="markdown")).decode()


def check_commands(folder: Path) -> None:
    def run(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(lattice, arguments)
        assert result.exit_code == code, result.output
        return result

    shown = run("ask", QUESTION, "--db", "shop", "--profile", "direct", "-o", str(folder / "out.csv"))
    assert "Grace" in shown.stdout
    assert "SELECT" in shown.stdout
    assert "unverified" in shown.stdout
    assert "schema   orders" in shown.stderr
    assert (folder / "out.csv").read_text().startswith("customer,spent")
    asked = json.loads(run("ask", QUESTION, "-d", "shop", "-p", "direct", "--json").stdout)
    assert asked["answer"]["result"]["columns"] == ["customer", "spent"]
    assert run("ask", QUESTION, "-d", "shop", "-o", "x.xls", code=2).stdout == ""
    assert "shop" in run("sql", "databases").stdout
    assert "customer" in run("sql", "show", "shop").stdout
    assert asked["id"] in run("sql", "questions", "--db", "shop").stdout
    assert run("sql", "judge", asked["id"], "approve").stdout.startswith("kept as ")
    assert QUESTION in run("sql", "examples").stdout
    run("sql", "rows", asked["id"], "-o", str(folder / "out.parquet"))
    assert (folder / "out.parquet").read_bytes()[:4] == b"PAR1"

    (folder / "more.csv").write_bytes(ORDERS)
    assert "second (" in run("sql", "upload", "second", str(folder / "more.csv"), "--no-wait").stdout
    run("sql", "remove", "second")

    (folder / "gold.jsonl").write_text(json.dumps({"question": QUESTION, "query": SQL, "db_id": "shop"}))
    job = json.loads(run("sql", "eval", str(folder / "gold.jsonl"), "-c", "direct", "--json").stdout)
    newest, done = json.loads(run("sql", "evaluations", "--json").stdout)
    assert newest["id"] == job["id"]
    assert "direct" in run("sql", "report", done["id"]).stdout
    run("sql", "report", done["id"], "--format", "png", code=2)
    run("jobs", "cancel", job["id"], "--wait")
    (folder / "wrong.json").write_text("[1]")
    run("sql", "eval", str(folder / "wrong.json"), code=2)
