"""Questions over HTTP: answers, streams, queue, rows, files, feedback, traces, refusals."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from services.text2sql.adapters import GatedEngine, SandboxedPrograms
from services.text2sql.pisql.pipeline import Knowledge
from services.text2sql.pisql.ports import Ports
from services.text2sql.pisql.trace import replay
from services.text2sql.settings import Text2SqlSettings
from services.text2sql.wiring import make_parts
from tests.integration.text2sql.service.conftest import OWNER
from tests.integration.text2sql.service.scripted_gateway import ScriptedGateway

TOTALS = "What is the total amount per country?"


def ask(client: httpx.Client, question: str = TOTALS, **more: Any) -> httpx.Response:
    return client.post("/questions", json={"database": "shop", "question": question, **more})


@pytest.fixture(scope="module")
def answered(owner: httpx.Client, shop: str) -> dict[str, Any]:
    response = ask(owner, profile="standard")
    assert response.status_code == 200, response.text
    view: dict[str, Any] = response.json()
    return view


class TestAnswer:
    def test_is_verified_and_explains_itself(self, answered: dict[str, Any]) -> None:
        answer = answered["answer"]
        assert (answered["state"], answer["verdict"]) == ("answered", "verified")
        assert sorted(answer["result"]["rows"]) == [["Italy", 7320.0], ["Norway", 3570.0]]
        assert answer["steps"][0].startswith("1. join orders")
        assert answer["tables"] == ["orders", "customer"]
        assert answer["confidence"] == 1.0
        assert answer["chart"]["mark"] == "bar"
        assert {program["status"] for program in answer["programs"]} == {"ok"}
        assert any(candidate["match"] == "match" for candidate in answer["candidates"])
        assert answer["budget"]["calls"] == len(answer["calls"]) > 0

    def test_calls_carry_the_principals_token(
        self, owner: httpx.Client, shop: str, gateway: ScriptedGateway
    ) -> None:
        gateway.tokens.clear()
        ask(owner, profile="fast")
        assert gateway.tokens
        assert all(token.startswith("Bearer ey") for token in gateway.tokens)

    def test_fast_costs_three_calls(self, owner: httpx.Client, shop: str) -> None:
        answer = ask(owner, profile="fast").json()["answer"]
        assert (answer["verdict"], answer["budget"]["calls"]) == ("verified", 3)

    def test_another_model_for_one_stage(
        self, owner: httpx.Client, shop: str, gateway: ScriptedGateway
    ) -> None:
        gateway.bodies.clear()
        ask(owner, profile="fast", model="large", models={"sql_writer": "sqlcoder"})
        assert {body["model"] for body in gateway.bodies} == {"large", "sqlcoder"}

    def test_small_models_are_held_to_a_grammar(
        self, owner: httpx.Client, shop: str, gateway: ScriptedGateway
    ) -> None:
        gateway.bodies.clear()
        ask(owner, profile="fast", model_profile="small")
        assert all("root ::=" in body["grammar"] for body in gateway.bodies)


class TestRefusals:
    def test_out_of_domain(self, owner: httpx.Client, shop: str) -> None:
        answer = ask(owner, "Who painted the Mona Lisa?").json()["answer"]
        assert (answer["verdict"], answer["code"]) == ("refused", "unanswerable")

    def test_destructive_sql_never_runs(self, owner: httpx.Client, shop: str) -> None:
        answer = ask(owner, "Please remove the customers", profile="direct").json()["answer"]
        assert answer["verdict"] == "unverified"
        assert answer["code"] == "sql_rejected"
        count = owner.get("/databases/shop/schema").json()["tables"][0]["row_count"]
        assert count == 3

    @pytest.mark.parametrize(
        ("body", "status", "code"),
        [
            ({"database": "shop", "question": "  "}, 200, "question_invalid"),
            ({"database": "nowhere", "question": "x"}, 404, "unknown_database"),
            ({"database": "shop", "question": "x", "profile": "heroic"}, 422, None),
            ({"database": "shop", "question": "x", "surprise": 1}, 422, None),
            ({"database": "shop", "question": "x", "stream": True, "queue": True}, 400, None),
        ],
    )
    def test_bad_requests(
        self, owner: httpx.Client, shop: str, body: dict[str, Any], status: int, code: str | None
    ) -> None:
        response = owner.post("/questions", json=body)
        assert response.status_code == status, response.text
        if code:
            found = response.json()
            assert (found.get("code") or found["problem"]["code"]) == code

    def test_other_tenants_cannot_ask_or_look(
        self, other: httpx.Client, shop: str, answered: dict[str, Any]
    ) -> None:
        assert ask(other).status_code == 404
        for path in ("", "/rows", "/trace"):
            assert other.get(f"/questions/{answered['id']}{path}").status_code == 404
        feedback = other.post(f"/questions/{answered['id']}/feedback", json={"verdict": "approve"})
        assert feedback.status_code == 404
        assert other.get("/questions").json()["data"] == []

    def test_a_spent_budget_is_said(self, owner: httpx.Client, shop: str, gateway: ScriptedGateway) -> None:
        gateway.refuse = True
        try:
            answer = ask(owner, profile="fast").json()["answer"]
        finally:
            gateway.refuse = False
        assert (answer["verdict"], answer["code"]) == ("unverified", "llm_unavailable")
        assert any("budget is spent" in warning["message"] for warning in answer["warnings"])


class TestStream:
    def test_stages_come_in_order_and_end_with_the_answer(self, owner: httpx.Client, shop: str) -> None:
        events: list[tuple[str, dict[str, Any]]] = []
        body = {"database": "shop", "question": TOTALS, "stream": True, "profile": "standard"}
        with owner.stream("POST", "/questions", json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            name = ""
            for line in response.iter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    events.append((name, json.loads(line.removeprefix("data: "))))
        names = [name for name, _ in events]
        wanted = ["question", "admitted", "values", "linked", "program", "sandbox", "candidate", "answer"]
        positions = [names.index(name) for name in wanted]
        assert positions == sorted(positions)
        assert events[-1][1]["answer"]["verdict"] == "verified"
        assert events[0][1]["id"] == events[-1][1]["id"]


class TestQueue:
    def test_answers_in_the_background(self, owner: httpx.Client, shop: str) -> None:
        response = ask(owner, queue=True, profile="fast")
        assert response.status_code == 202
        assert response.headers["location"].startswith("/v1/jobs/")
        question_id = response.headers["x-question-id"]
        deadline = time.monotonic() + 40
        view = owner.get(f"/questions/{question_id}").json()
        while view["state"] in ("queued", "running") and time.monotonic() < deadline:
            time.sleep(0.1)
            view = owner.get(f"/questions/{question_id}").json()
        assert (view["state"], view["answer"]["verdict"]) == ("answered", "verified")
        assert view["job_id"] == response.json()["id"]


@pytest.fixture(scope="module")
def many(owner: httpx.Client, shop: str) -> str:
    """A question with 120 rows."""
    view = ask(owner, "List all orders", profile="fast").json()
    assert view["answer"]["result"]["truncated"] is True
    return str(view["id"])


class TestRows:
    def test_pages_cover_every_row_once(self, owner: httpx.Client, many: str) -> None:
        seen: list[int] = []
        cursor: str | None = None
        while True:
            query = {"limit": "50", **({"cursor": cursor} if cursor else {})}
            page = owner.get(f"/questions/{many}/rows", params=query).json()
            seen += [row[0] for row in page["data"]]
            cursor = page["next"]
            if cursor is None:
                break
        assert sorted(seen) == list(range(1, 121))

    def test_files_hold_the_same_rows(self, owner: httpx.Client, many: str) -> None:
        def file(form: str) -> httpx.Response:
            response = owner.get(f"/questions/{many}/rows", params={"format": form})
            assert response.status_code == 200
            assert f".{form}" in response.headers["content-disposition"]
            return response

        ids = list(range(1, 121))
        csv_lines = file("csv").text.splitlines()
        assert (csv_lines[0], sorted(map(int, csv_lines[1:]))) == ("id", ids)
        assert sorted(parquet.read_table(io.BytesIO(file("parquet").content))["id"].to_pylist()) == ids
        with pa.ipc.open_stream(file("arrow").content) as stream:
            assert sorted(stream.read_all()["id"].to_pylist()) == ids

    def test_bad_cursor_and_no_rows(self, owner: httpx.Client, many: str) -> None:
        assert owner.get(f"/questions/{many}/rows", params={"cursor": "%%"}).status_code == 400
        refused = ask(owner, "Who painted the Mona Lisa?").json()
        assert owner.get(f"/questions/{refused['id']}/rows").status_code == 409


class TestFeedback:
    def test_approval_becomes_an_example(self, owner: httpx.Client, answered: dict[str, Any]) -> None:
        made = owner.post(f"/questions/{answered['id']}/feedback", json={"verdict": "approve"})
        assert made.status_code == 200, made.text
        example = made.json()
        assert (example["source"], example["stale"]) == ("feedback", False)
        listed = owner.get("/examples", params={"database": "shop"}).json()["data"]
        assert example["id"] in {item["id"] for item in listed}
        assert owner.get(f"/questions/{answered['id']}").json()["feedback"]["example_id"] == example["id"]
        assert owner.delete(f"/examples/{example['id']}").status_code == 204
        assert owner.delete(f"/examples/{example['id']}").status_code == 404

    def test_corrections_are_checked_first(self, owner: httpx.Client, answered: dict[str, Any]) -> None:
        path = f"/questions/{answered['id']}/feedback"
        assert owner.post(path, json={"verdict": "correct"}).status_code == 400
        for sql, code in (
            ("SELECT nothing FROM orders", "sql_error"),
            ("DROP TABLE orders", "sql_rejected"),
            ("SELECT 1; SELECT 2", "sql_error"),
        ):
            refused = owner.post(path, json={"verdict": "correct", "sql": sql})
            assert (refused.status_code, refused.json()["code"]) == (422, code)
        good = owner.post(path, json={"verdict": "correct", "sql": "SELECT COUNT(*) FROM orders"})
        assert good.json()["sql"] == "SELECT COUNT(*) FROM orders"

    def test_rejection_is_kept(self, owner: httpx.Client, answered: dict[str, Any]) -> None:
        path = f"/questions/{answered['id']}"
        done = owner.post(f"{path}/feedback", json={"verdict": "reject", "comment": "wrong country"})
        assert done.json() is None
        assert owner.get(path).json()["feedback"]["comment"] == "wrong country"


def test_a_trace_replays_without_a_model(
    owner: httpx.Client, answered: dict[str, Any], settings: Text2SqlSettings
) -> None:
    trace = owner.get(f"/questions/{answered['id']}/trace").json()

    async def again() -> tuple[str, str]:
        parts = make_parts(settings)
        try:
            access = await parts.registry.access(OWNER, "shop")
            assert parts.sandbox is not None
            with await parts.registry.open(access) as database:
                ports = Ports(
                    chat=parts.asker.chat(OWNER),
                    programs=SandboxedPrograms(parts.sandbox, database),
                    engine=GatedEngine(database),
                )
                given = await replay(trace, Knowledge(access.schema, access.values), ports)
            return given.sql, given.verdict
        finally:
            await parts.close()

    assert asyncio.run(again()) == (answered["answer"]["sql"], "verified")
