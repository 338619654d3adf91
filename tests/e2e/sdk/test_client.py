"""The client and the command against the running suite, as a user has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from PIL import Image

import latticework
from latticework import AsyncClient, Client
from tests.e2e.conftest import RunningSuite

QUESTION = "Name a colour."


@pytest.fixture
def client(suite: RunningSuite, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Found by the state file of the suite, as in the folder it was started in."""
    monkeypatch.delenv("LATTICEWORK_URL", raising=False)
    monkeypatch.delenv("LATTICEWORK_KEY", raising=False)
    monkeypatch.setenv("LATTICEWORK_HOME", str(suite.home))
    with Client() as found:
        assert found.url == suite.url
        yield found


def test_words_of_a_real_model(client: Client) -> None:
    assert client.is_ready()
    assert "default" in {model.id for model in client.models.list()}
    chunks = list(client.chat.stream(QUESTION, max_tokens=8, temperature=0))
    assert "".join(chunk.text for chunk in chunks).strip()
    assert chunks[-1].usage is not None
    assert 0 < chunks[-1].usage.completion_tokens <= 8
    whole = client.chat.complete(QUESTION, max_tokens=8, temperature=0)
    assert whole.text == "".join(chunk.text for chunk in chunks)


def test_stock_client_is_ready(client: Client) -> None:
    reply = client.openai.embeddings.create(model="embed", input="a colour")
    assert len(reply.data[0].embedding) > 100
    with pytest.raises(openai.NotFoundError):
        client.openai.embeddings.create(model="no-such-model", input="x")


def test_unknown_model_is_our_own_error(client: Client) -> None:
    with pytest.raises(latticework.NotFound) as caught:
        client.chat.complete(QUESTION, model="no-such-model")
    assert caught.value.code == "model_not_found"
    assert caught.value.request_id


def test_life_of_a_key(client: Client, suite: RunningSuite) -> None:
    made = client.keys.create("e2e", ["model"], tokens=10_000)
    assert made.id in {key.id for key in client.keys.list()}
    with Client(suite.url, made.key) as narrow:
        narrow.chat.complete(QUESTION, max_tokens=2)
        with pytest.raises(latticework.Forbidden):
            narrow.sql.databases.list().first()
        assert made.budget_id is not None
        budget = narrow.budgets.get(made.budget_id)
        assert 0 < budget.used_tokens < 10_000
        client.budgets.change(made.budget_id, tokens=1)
        with pytest.raises((latticework.BudgetExceeded, latticework.TooManyRequests)):
            narrow.chat.complete(QUESTION, max_tokens=2)

        deadline = time.monotonic() + 10
        while not (rows := list(client.usage.list(group_by=["key"], key_id=made.id))):
            assert time.monotonic() < deadline, "the usage was not written"
            time.sleep(0.2)
        assert rows[0].prompt_tokens > 0

        rotated = client.keys.rotate(made.id)
        with Client(suite.url, rotated.key) as fresh:
            fresh.models.list()
        client.keys.revoke(made.id)
        time.sleep(1)
        with pytest.raises(latticework.Unauthorized):
            narrow.models.list()


def test_files_pass_through_the_gateway(client: Client, tmp_path: Path) -> None:
    content = os.urandom(5 << 20)
    source = tmp_path / "adapter.bin"
    source.write_bytes(content)
    artifact = client.artifacts.upload(source, kind="adapter", metadata={"rank": 8})
    try:
        target = client.artifacts.download(artifact.id, "adapter.bin", tmp_path / "back.bin")
        assert target.read_bytes() == content
    finally:
        client.artifacts.delete(artifact.id)


def test_dots_through_the_gateway(client: Client, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.effect_noise((640, 480), 40).save(photo)
    answer = client.vision.scaffold(photo, rows=3, cols=3, output={"format": "png"})
    assert len(answer.dots) == 9
    with pytest.raises(latticework.ServiceUnavailable) as caught:
        client.vision.ask(photo, "What is it?")
    assert caught.value.code == "model_not_configured"


def test_demonstration_database(client: Client) -> None:
    ready = client.sql.databases.wait_ready("flights", timeout=90)
    assert ready.state == "ready"
    schema = client.sql.databases.schema("flights")
    assert "flights" in {table.name for table in schema.tables}
    with client.sql.questions.stream("flights", "How many flights are there?", profile="direct") as events:
        assert next(events).stage == "question"


def test_job_is_followed_to_its_end(client: Client) -> None:
    job = client.jobs.submit("diagnostics.cpu", {"steps": 5, "step_seconds": 0.05})
    seen = list(client.jobs.events(job.id))
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].type == "succeeded"
    done = client.jobs.wait(job.id, timeout=30)
    assert done.progress == 1.0
    assert job.id in {one.id for one in client.jobs.list(kind="diagnostics.cpu")}


async def test_async_client(suite: RunningSuite) -> None:
    async with AsyncClient(suite.url, suite.key) as client:
        words = [chunk.text async for chunk in client.chat.stream(QUESTION, max_tokens=4)]
        assert "".join(words).strip()
        reply = await client.openai.embeddings.create(model="embed", input=["a", "b"])
        assert len(reply.data) == 2


def lattice(suite: RunningSuite, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LATTICEWORK_HOME": str(suite.home)}
    return subprocess.run(
        [sys.executable, "-m", "latticework.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_command(suite: RunningSuite) -> None:
    status = lattice(suite, "status", "--json")
    assert (status.returncode, json.loads(status.stdout)["key"]) == (0, "accepted")
    chat = lattice(suite, "chat", QUESTION, "--max-tokens", "6")
    assert chat.returncode == 0
    assert chat.stdout.strip()
    jobs = lattice(
        suite, "jobs", "submit", "diagnostics.cpu", "-p", '{"steps": 2, "step_seconds": 0.01}', "-w"
    )
    assert jobs.returncode == 0, jobs.stderr
    assert "succeeded" in jobs.stdout
    wrong = lattice(suite, "status", "--key", "lw_wrong")
    assert wrong.returncode == 4
