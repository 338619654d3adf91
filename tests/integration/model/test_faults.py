"""What goes wrong with engines, and what clients see of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.integration.model.conftest import MODEL, RunningService
from tests.integration.model.scripted_upstream import STREAM, ScriptedUpstream

ASK: Any = [{"role": "user", "content": "Write a very long story about the sea."}]


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition, or fail."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def engine(admin: httpx.Client, engine_id: str) -> dict[str, Any]:
    answer = admin.get(f"/v1/engines/{engine_id}")
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_an_engine_killed_mid_stream_ends_the_stream_with_an_error_and_comes_back(
    service: RunningService, client: openai.OpenAI, admin: httpx.Client
) -> None:
    before = engine(admin, "engine_default")["restarts"]
    stream = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=800, stream=True, extra_body={"ignore_eos": True}
    )
    pieces = iter(stream)
    for _ in range(4):
        next(pieces)
    (process,) = service.engine_processes()
    process.kill()
    with pytest.raises(openai.APIError) as failure:
        list(pieces)
    assert failure.value.code == "engine_failed"

    def answered() -> openai.APIStatusError | None:
        try:
            client.chat.completions.create(model="default", messages=ASK, max_tokens=2)
        except openai.APIStatusError as error:
            return error
        return None

    # While it is down: 503 with a time to wait. Then it is there again by itself.
    while (error := answered()) is not None:
        assert error.status_code == 503
        assert error.code == "engine_unavailable"
        assert int(error.response.headers["retry-after"]) >= 1
        time.sleep(0.2)
    state = engine(admin, "engine_default")
    assert (state["state"], state["restarts"]) == ("ready", before + 1)
    assert len(service.engine_processes()) == 1


def test_a_swap_under_load_fails_no_request(service: RunningService, admin: httpx.Client) -> None:
    body = engine(admin, "engine_default")
    generation = body["generation"]
    (old,) = service.engine_processes()
    done: list[bool] = []

    def keep_asking(worker: int) -> list[str]:
        replies: list[str] = []
        with service.openai() as client:
            while not done or len(replies) < 3:
                answer = client.chat.completions.create(
                    model="default",
                    messages=[{"role": "user", "content": f"Say {worker}."}],
                    max_tokens=4,
                    stream=worker % 2 == 0,
                )
                if isinstance(answer, openai.Stream):
                    list(answer)
                    replies.append("stream")
                else:
                    replies.append(answer.model)
        return replies

    with ThreadPoolExecutor(4) as pool:
        workers = [pool.submit(keep_asking, worker) for worker in range(4)]
        time.sleep(0.5)
        answer = admin.post("/v1/engines/engine_default/swap", json={"spec": body["spec"] | {"slots": 3}})
        assert answer.status_code == 202, answer.text
        assert answer.json()["swapping"]
        again = admin.post("/v1/engines/engine_default/swap", json={"spec": body["spec"]})
        assert (again.status_code, again.json()["code"]) == (409, "engine_busy")
        until(lambda: bool(engine(admin, "engine_default")["generation"] == generation + 1))
        until(lambda: not old.is_running() or old.status() == "zombie")
        done.append(True)
        replies = [worker.result() for worker in workers]
    assert all(len(mine) >= 3 for mine in replies)
    after = engine(admin, "engine_default")
    assert (after["state"], after["spec"]["slots"]) == ("ready", 3)
    assert len(service.engine_processes()) == 1


def test_a_swap_to_nothing_keeps_what_runs(
    service: RunningService, client: openai.OpenAI, admin: httpx.Client
) -> None:
    spec = {"kind": "llamacpp", "model": MODEL, "path": "/no/such/model.gguf"}
    assert admin.post("/v1/engines/engine_default/swap", json={"spec": spec}).status_code == 202
    until(lambda: not engine(admin, "engine_default")["swapping"])
    state = engine(admin, "engine_default")
    assert state["state"] == "ready"
    assert "model.gguf cannot be read" in state["reason"]
    assert client.chat.completions.create(model="default", messages=ASK, max_tokens=1).choices
    assert len(service.engine_processes()) == 1


def test_a_client_that_hangs_up_frees_the_slot(service: RunningService, admin: httpx.Client) -> None:
    body = {"model": "default", "messages": ASK, "max_tokens": 1500, "stream": True, "ignore_eos": True}
    with service.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_bytes()
        next(pieces)
        assert engine(admin, "engine_default")["requests"] == 1
    closed = time.monotonic()
    until(lambda: engine(admin, "engine_default")["requests"] == 0, 1.0)
    assert time.monotonic() - closed < 1.0


def test_a_full_engine_refuses_at_once(service: RunningService) -> None:
    """28 places; a call for 16 choices takes 16 of them, so two such calls do not fit."""
    body = {"model": "default", "messages": ASK, "max_tokens": 4, "n": 16, "ignore_eos": True}
    with service.http() as http, ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: http.post("/v1/chat/completions", json=body), range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 503, 503]
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "engine_unavailable"


def ask(http: httpx.Client, what: str, **fields: Any) -> httpx.Response:
    body = {"model": "hosted", "messages": [{"role": "user", "content": what}]} | fields
    return http.post("/v1/chat/completions", json=body)


def test_a_hosted_stream_passes_byte_for_byte_with_its_own_key(
    service: RunningService, upstream: ScriptedUpstream
) -> None:
    with service.http() as http:
        answer = ask(http, "stream", stream=True, vendor_option=3)
    assert answer.content == b"".join(STREAM)
    assert answer.headers["content-type"].startswith("text/event-stream")
    headers, body = upstream.requests[-1]
    assert headers["authorization"] == "Bearer hosted-key"
    assert body["vendor_option"] == 3


@pytest.mark.parametrize("what", ["die", "stop short"])
def test_a_hosted_stream_that_breaks_ends_with_an_error(service: RunningService, what: str) -> None:
    with service.http() as http:
        until(lambda: ask(http, "stream", stream=True).status_code == 200)
        answer = ask(http, what, stream=True)
    assert answer.status_code == 200
    sent = b"".join(STREAM[:2])
    assert answer.content.startswith(sent)
    last = json.loads(answer.content[len(sent) :].removeprefix(b"data: "))
    assert last["error"]["code"] == "engine_failed"
    assert b"[DONE]" not in answer.content


@pytest.mark.parametrize(
    ("what", "status", "code"),
    [
        ("die at once", 503, "engine_unavailable"),
        ("overload", 503, "engine_unavailable"),
        ("break", 502, "engine_failed"),
        ("refuse", 400, "no_pictures"),
    ],
)
def test_errors_of_a_hosted_model(service: RunningService, what: str, status: int, code: str) -> None:
    with service.http() as http:
        for stream in (False, True):
            # Whatever failed before may have opened the breaker; a success closes it.
            until(lambda: ask(http, "stream", stream=True).status_code == 200)
            answer = ask(http, what, stream=stream)
            assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
            assert "internal secret" not in answer.text


def test_a_client_that_hangs_up_cancels_the_hosted_call(
    service: RunningService, upstream: ScriptedUpstream
) -> None:
    upstream.hung_up.clear()
    body = {"model": "hosted", "messages": [{"role": "user", "content": "slowly"}], "stream": True}
    with service.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_bytes()
        next(pieces)
    assert upstream.hung_up.wait(1.0)


def test_hosted_embeddings_pass_through(service: RunningService) -> None:
    with service.http() as http:
        answer = http.post("/v1/embeddings", json={"model": "hosted", "input": "x"})
    assert answer.json()["data"][0]["embedding"] == [1.0, 0.0]


def test_metrics_carry_those_of_the_engines(service: RunningService, admin: httpx.Client) -> None:
    name = 'llamacpp:tokens_predicted_total{engine="engine_default"}'
    until(lambda: name in admin.get("/metrics").text)
    assert "gen_ai_server_request_duration_seconds" in admin.get("/metrics").text
