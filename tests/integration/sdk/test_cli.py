"""The command `lattice` against a small real server: output, data, errors, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from typer.testing import CliRunner, Result

from latticework.cli import app
from tests.integration.sdk.conftest import KEY
from tests.integration.sdk.server import ScriptedServer, problem
from tests.integration.sdk.test_streaming import events

Lattice = Callable[..., Result]
NOW = "2026-01-02T03:04:05Z"


def job(**changes: Any) -> dict[str, Any]:
    return {
        "id": "job_1", "kind": "diagnostics.sleep", "pool": "diagnostics", "state": "running",
        "cancelling": False, "priority": 0, "attempt": 1, "max_attempts": 3, "progress": 0.25,
        "message": "step 1", "metrics": {"loss": 0.123456}, "problem": None, "depends_on": [],
        "waiting_on": 0, "not_before": None, "deadline": None, "timeout": 60.0, "created_at": NOW,
        "started_at": NOW, "finished_at": None, "expires_at": None, "checkpoint_at": None,
        "parameters": {"seconds": 1}, "result": None, **changes,
    }  # fmt: skip


def event(sequence: int, kind: str, **data: Any) -> bytes:
    body = {"job_id": "job_1", "sequence": sequence, "type": kind, "at": NOW, "data": data}
    return f"id: {sequence}\nevent: {kind}\ndata: {json.dumps(body)}\n\n".encode()


def chunk(text: str | None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": {"content": text}, "finish_reason": None}] if text is not None else []
    body = {"id": "c", "object": "chat.completion.chunk", "model": "tiny", "choices": choices, **more}
    return f"data: {json.dumps(body)}\n\n".encode()


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
ANSWER = (chunk("Hello "), chunk("there.\n"), chunk(None, usage=USAGE), b"data: [DONE]\n\n")


@pytest.fixture
def lattice(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lattice:
    """Run `lattice` as a user of the scripted server."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LATTICEWORK_URL", server.url)
    monkeypatch.setenv("LATTICEWORK_KEY", KEY)
    runner = CliRunner()

    def run(*arguments: str, input: str | None = None) -> Result:
        return runner.invoke(app, arguments, input=input)

    return run


def test_chat_shows_the_words(server: ScriptedServer, lattice: Lattice) -> None:
    server.answer("POST", "/v1/chat/completions", events(*ANSWER))
    result = lattice("chat", "Hi?", "--system", "be brief", "--model", "tiny", "--temperature", "0")
    assert (result.exit_code, result.stdout) == (0, "Hello there.\n\n")
    sent = json.loads(server.bodies[0])
    assert sent == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "Hi?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.0,
    }


def test_chat_as_data_and_from_a_pipe(server: ScriptedServer, lattice: Lattice) -> None:
    server.answer("POST", "/v1/chat/completions", events(*ANSWER))
    result = lattice("chat", "--json", input="from a pipe\n")
    answer = json.loads(result.stdout)
    assert answer["content"] == "Hello there.\n"
    assert answer["usage"]["completion_tokens"] == 2
    assert json.loads(server.bodies[0])["messages"][-1]["content"] == "from a pipe"


def test_chat_without_a_question(lattice: Lattice) -> None:
    result = lattice("chat", input="")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: There is no question.\n"


def test_options_are_taken_before_and_after(server: ScriptedServer, lattice: Lattice) -> None:
    answer = {"object": "list", "data": [{"id": "default", "object": "model", "created": 1, "owned_by": "x"}]}
    server.answer("GET", "/v1/models", JSONResponse(answer))
    plain = lattice("models")
    assert "default" in plain.stdout
    data = lattice("models", "--json", "--key", "lw_other_0123456789")
    assert [one["id"] for one in json.loads(data.stdout)] == ["default"]
    assert server.requests[-1].headers["authorization"] == "Bearer lw_other_0123456789"


@pytest.mark.parametrize(
    ("status", "code", "exit_code"),
    [
        (401, "unauthorized", 4),
        (403, "forbidden", 4),
        (402, "budget_exceeded", 6),
        (429, "budget_exceeded", 6),
        (404, "not_found", 1),
    ],
)
def test_problems_are_one_line_and_an_exit_code(
    server: ScriptedServer, lattice: Lattice, status: int, code: str, exit_code: int
) -> None:
    body = problem(status, code, "It cannot be.", errors=[{"location": "model", "message": "unknown"}])
    server.answer("GET", "/v1/models", JSONResponse(body, status_code=status))
    result = lattice("models")
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr == f"error: It cannot be. ({status}, {code}, req_1); model: unknown\n"
    data = lattice("models", "--json")
    assert (data.exit_code, data.stdout) == (exit_code, "")
    error = json.loads(data.stderr)["error"]
    assert (error["status"], error["code"], error["exit_code"]) == (status, code, exit_code)


def test_nothing_is_running(lattice: Lattice) -> None:
    result = lattice("models", "--url", "http://127.0.0.1:9")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr.startswith("error: Nothing answers at http://127.0.0.1:9. Is the suite running?")
    assert result.stderr.count("\n") == 1


def test_nothing_is_known(lattice: Lattice, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LATTICEWORK_URL")
    monkeypatch.delenv("LATTICEWORK_KEY")
    result = lattice("models")
    assert result.exit_code == 3
    assert "lattice up" in result.stderr
    monkeypatch.setenv("LATTICEWORK_URL", "http://127.0.0.1:9")
    result = lattice("models")
    assert result.exit_code == 4
    assert "LATTICEWORK_KEY" in result.stderr


def test_status(server: ScriptedServer, lattice: Lattice) -> None:
    server.answer("GET", "/readyz", JSONResponse({"status": "ready", "not_ready": {}}))
    server.answer("GET", "/v1/models", JSONResponse({"object": "list", "data": []}))
    assert json.loads(lattice("status", "--json").stdout) == {
        "url": server.url,
        "source": "arguments",
        "status": "ready",
        "not_ready": {},
        "key": "accepted",
    }
    server.answer("GET", "/v1/models", JSONResponse(problem(401, "unauthorized"), status_code=401))
    result = lattice("status")
    assert (result.exit_code, "key refused" in result.stdout) == (4, True)


def test_status_names_what_is_not_ready(server: ScriptedServer, lattice: Lattice) -> None:
    body = {"status": "not ready", "not_ready": {"model": "loading"}}
    server.answer("GET", "/readyz", JSONResponse(body, status_code=503, headers={"Retry-After": "0.01"}))
    result = lattice("status")
    assert result.exit_code == 3
    assert "model: loading" in result.stdout


def test_jobs_list_pages_as_far_as_needed(server: ScriptedServer, lattice: Lattice) -> None:
    async def page(request: Request) -> Response:
        assert request.query_params["state"] == "running"
        cursor = request.query_params.get("cursor")
        return JSONResponse({"data": [job(id=f"job_{cursor}")] * 2, "next": f"{cursor or ''}x"})

    server.on("GET", "/v1/jobs", page)
    result = lattice("jobs", "list", "--state", "running", "--limit", "5", "--json")
    assert [one["id"] for one in json.loads(result.stdout)] == [
        "job_None",
        "job_None",
        "job_x",
        "job_x",
        "job_xx",
    ]
    shown = lattice("jobs", "list", "--state", "running", "--limit", "1")
    assert "diagnostics.sleep" in shown.stdout
    assert "25%" in shown.stdout
    assert lattice("jobs", "list", "--state", "sleeping").exit_code == 2


def test_job_is_watched_to_its_end(server: ScriptedServer, lattice: Lattice) -> None:
    done = job(state="succeeded", progress=1.0, result={"slept": 1})
    server.answer("GET", "/v1/jobs/job_1", JSONResponse(job()), JSONResponse(done))
    told = events(
        event(1, "queued"),
        event(2, "started"),
        event(3, "progress", progress=0.5, message="step 2", metrics={"loss": 0.0625}),
        event(4, "succeeded"),
    )
    server.answer("GET", "/v1/jobs/job_1/events", told)
    result = lattice("jobs", "watch", "job_1")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[2].endswith("progress  50%  step 2  loss=0.0625")
    assert lines[3].endswith("succeeded")
    assert json.loads("".join(lines[4:])) == {"slept": 1}


def test_failed_job_as_data(server: ScriptedServer, lattice: Lattice) -> None:
    broken = job(state="failed", problem=problem(500, "out_of_memory", "It took too much memory."))
    server.answer("GET", "/v1/jobs/job_1", JSONResponse(broken))
    server.answer("GET", "/v1/jobs/job_1/events", events(event(1, "failed", problem=broken["problem"])))
    result = lattice("jobs", "watch", "job_1", "--json")
    assert result.exit_code == 5
    assert [json.loads(line)["type"] for line in result.stdout.splitlines()] == ["failed"]
    assert "too much memory" in json.loads(result.stderr)["error"]["detail"]


def test_job_is_submitted(server: ScriptedServer, lattice: Lattice) -> None:
    server.answer("POST", "/v1/jobs", JSONResponse(job(state="queued"), status_code=202))
    result = lattice("jobs", "submit", "diagnostics.sleep", "-p", '{"seconds": 1}', "--priority", "5")
    assert result.stdout == "job_1: queued; follow it with `lattice jobs watch job_1`\n"
    body = json.loads(server.bodies[0])
    assert body == {"kind": "diagnostics.sleep", "parameters": {"seconds": 1}, "priority": 5}
    assert server.requests[0].headers["idempotency-key"]
    assert lattice("jobs", "submit", "x", "-p", "{").exit_code == 2
    assert lattice("jobs", "submit", "x", "-p", "[]").exit_code == 2


def test_job_is_cancelled_retried_and_shown(server: ScriptedServer, lattice: Lattice) -> None:
    server.answer("POST", "/v1/jobs/job_1/cancel", JSONResponse(job(cancelling=True), status_code=202))
    server.answer("POST", "/v1/jobs/job_1/retry", JSONResponse(job(state="queued"), status_code=202))
    server.answer("GET", "/v1/jobs/job_1", JSONResponse(job(state="cancelled")))
    assert lattice("jobs", "cancel", "job_1").stdout == "job_1: stopping\n"
    assert lattice("jobs", "cancel", "job_1", "--wait").stdout == "job_1: cancelled\n"
    assert lattice("jobs", "retry", "job_1").stdout == "job_1: queued\n"
    assert "loss=0.1235" in lattice("jobs", "show", "job_1").stdout


def lattice_process(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "latticework.cli", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_up_where_there_is_no_suite(lattice: Lattice, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(name: str) -> None:
        assert name == "deploy"

    monkeypatch.setattr("importlib.util.find_spec", nowhere)
    result = lattice("up")
    assert result.exit_code == 2
    assert (
        result.stderr == "error: The suite is not installed here; go to its checkout and type `make run`.\n"
    )


def test_up_runs_the_runner_of_the_folder(tmp_path: Path) -> None:
    package = tmp_path / "deploy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "local.py").write_text("print('the suite is up')")
    result = lattice_process("up", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (result.returncode, result.stdout) == (0, "the suite is up\n")
    (package / "local.py").write_text("raise SystemExit(7)")
    result = lattice_process("up", cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "code 7" in result.stderr


def test_reader_that_goes_away_is_no_error(server: ScriptedServer, tmp_path: Path) -> None:
    """`lattice jobs list | head -1` ends quietly."""
    page = {"data": [job(id=f"job_{number}" + "x" * 100) for number in range(2000)], "next": None}
    server.answer("GET", "/v1/jobs", JSONResponse(page))
    listing = f"{sys.executable} -m latticework.cli jobs list --json --limit 2000"
    result = subprocess.run(
        ["bash", "-c", f"{listing} | head -1; echo ${{PIPESTATUS[0]}}"],
        cwd=tmp_path,
        env={**os.environ, "LATTICEWORK_URL": server.url, "LATTICEWORK_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (result.stdout, result.stderr) == ("[\n0\n", "")
