"""The chat client against a small real HTTP server, and record and replay."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
import stamina
from pydantic import BaseModel

from shared.llm import (
    CallBudget,
    ChatClient,
    GatewayTransport,
    ModelOutputInvalid,
    RecordingTransport,
    ReplayTransport,
    Usage,
    request_key,
)
from shared.problems import BadGateway, BudgetExceeded, Problem, ServiceUnavailable

MESSAGES = [{"role": "user", "content": "hello"}]


def completion(text: str) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }


Script = Callable[[int, dict[str, Any]], tuple[int, bytes, dict[str, str]]]


class ScriptedGateway:
    """Answers chat completions from a function of the call number and the body."""

    def __init__(self, script: Script) -> None:
        self.bodies: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.bodies.append(body)
                status, content, headers = script(len(outer.bodies), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def gateway() -> Iterator[Callable[[Script], ScriptedGateway]]:
    running: list[ScriptedGateway] = []

    def start(script: Script) -> ScriptedGateway:
        running.append(ScriptedGateway(script))
        return running[-1]

    with stamina.set_testing(True, attempts=4):
        yield start
    for server in running:
        server.stop()


def ok(text: str) -> tuple[int, bytes, dict[str, str]]:
    return 200, orjson.dumps(completion(text)), {}


def run_chat(url: str, **options: Any) -> Any:
    async def go() -> Any:
        transport = GatewayTransport(url, lambda: "token")
        try:
            return await ChatClient(transport, **options).chat(MESSAGES, temperature=0)
        finally:
            await transport.close()

    return asyncio.run(go())


def test_a_reply_and_its_usage(gateway: Callable[[Script], ScriptedGateway]) -> None:
    server = gateway(lambda call, body: ok("hi"))
    reply = run_chat(server.url)
    assert (reply.text, reply.finish_reason, reply.usage) == ("hi", "stop", Usage(3, 2, 1))
    assert server.bodies == [{"model": "default", "messages": MESSAGES, "temperature": 0}]


def test_overload_is_retried_and_bad_requests_are_not(gateway: Callable[[Script], ScriptedGateway]) -> None:
    error = orjson.dumps({"error": {"message": "busy", "code": "unavailable"}})
    busy = gateway(lambda call, body: (503, error, {"Retry-After": "0"}) if call < 3 else ok("at last"))
    assert run_chat(busy.url).text == "at last"
    assert len(busy.bodies) == 3
    wrong = gateway(lambda call, body: (400, orjson.dumps({"error": {"message": "no", "code": "bad"}}), {}))
    with pytest.raises(Problem) as caught:
        run_chat(wrong.url)
    assert (caught.value.status, caught.value.instance_code, len(wrong.bodies)) == (400, "bad", 1)


def test_an_endless_overload_ends_as_the_gateways_problem(
    gateway: Callable[[Script], ScriptedGateway],
) -> None:
    server = gateway(lambda call, body: (503, b"not json", {}))
    with pytest.raises(ServiceUnavailable):
        run_chat(server.url)
    assert len(server.bodies) == 4


def test_nobody_there_is_a_bad_gateway() -> None:
    with stamina.set_testing(True, attempts=2), pytest.raises(BadGateway):
        run_chat("http://127.0.0.1:9")


def test_the_local_budget_stops_the_next_call(gateway: Callable[[Script], ScriptedGateway]) -> None:
    server = gateway(lambda call, body: ok("x"))
    budget = CallBudget(calls=1)
    run_chat(server.url, budget=budget)
    with pytest.raises(BudgetExceeded):
        run_chat(server.url, budget=budget)
    assert budget.spent == Usage(3, 2, 1)
    assert len(server.bodies) == 1


class Colour(BaseModel):
    name: str
    shade: int


@pytest.mark.parametrize("first", ["no json", '{"name": "red"}'])
def test_a_wrong_form_gets_one_more_try(gateway: Callable[[Script], ScriptedGateway], first: str) -> None:
    server = gateway(lambda call, body: ok(first if call == 1 else '{"name": "red", "shade": 3}'))

    async def go() -> Colour:
        return await ChatClient(GatewayTransport(server.url, lambda: "t")).structured(MESSAGES, Colour)

    assert asyncio.run(go()) == Colour(name="red", shade=3)
    assert len(server.bodies[1]["messages"]) == 3
    assert server.bodies[0]["response_format"]["json_schema"]["name"] == "Colour"


def test_two_wrong_forms_are_an_error(gateway: Callable[[Script], ScriptedGateway]) -> None:
    server = gateway(lambda call, body: ok("never"))

    async def go() -> None:
        await ChatClient(GatewayTransport(server.url, lambda: "t")).structured(MESSAGES, Colour)

    with pytest.raises(ModelOutputInvalid):
        asyncio.run(go())


def _sse(*events: str) -> tuple[int, bytes, dict[str, str]]:
    return (
        200,
        "".join(f"data: {event}\n\n" for event in events).encode(),
        {"content-type": "text/event-stream"},
    )


@pytest.mark.parametrize(
    ("events", "pieces", "fails"),
    [
        (
            (
                '{"choices":[{"delta":{"content":"a"}}]}',
                '{"choices":[],"usage":{"prompt_tokens":1}}',
                "[DONE]",
            ),
            ["a"],
            False,
        ),
        (('{"choices":[{"delta":{"content":"a"}}]}',), ["a"], True),
        (('{"choices":[{"delta":{"content":"a"}}]}', '{"error":{"message":"died"}}'), ["a"], True),
    ],
)
def test_streams_end_with_done_or_an_error(
    gateway: Callable[[Script], ScriptedGateway], events: tuple[str, ...], pieces: list[str], fails: bool
) -> None:
    server = gateway(lambda call, body: _sse(*events))
    got: list[str] = []

    async def go() -> None:
        async for piece in ChatClient(GatewayTransport(server.url, lambda: "t")).stream(MESSAGES):
            got.append(piece)  # noqa: PERF401 - a comprehension would lose the pieces before an error

    if fails:
        with pytest.raises(BadGateway):
            asyncio.run(go())
    else:
        asyncio.run(go())
    assert got == pieces


class ScriptedTransport:
    """Answers with numbered texts, without a server."""

    def __init__(self) -> None:
        self.calls = 0

    async def send(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.calls += 1
        return completion(f"answer {self.calls}")

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        yield {"choices": [{"delta": {"content": "s"}}]}


async def test_what_was_recorded_is_replayed_in_order(tmp_path: Path) -> None:
    recording = ChatClient(RecordingTransport(ScriptedTransport(), tmp_path / "calls.jsonl"))
    first = [(await recording.chat(MESSAGES)).text for _ in range(2)]
    streamed = [piece async for piece in recording.stream(MESSAGES)]
    replaying = ChatClient(ReplayTransport(tmp_path / "calls.jsonl"))
    assert [(await replaying.chat(MESSAGES)).text for _ in range(2)] == first == ["answer 1", "answer 2"]
    assert [piece async for piece in replaying.stream(MESSAGES)] == streamed
    with pytest.raises(LookupError):
        await replaying.chat(MESSAGES)


def test_the_key_of_a_request_ignores_the_order_of_fields() -> None:
    assert request_key({"a": 1, "b": [1, 2]}) == request_key({"b": [1, 2], "a": 1})
    assert request_key({"a": 1}) != request_key({"a": 2})
