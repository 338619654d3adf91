"""Answers that leave in one write, as raw bytes on the client's connection."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
import pytest

from gateway.server import Guard
from tests.integration.gateway.live import BODY, CHAT, HELLO, Live, answers, chunk, gateway, http
from tests.unit.upstream.servers import Call, Handler, serving


def request(
    live: Live, key: str, *, more: str = "", body: bytes | None = None, method: str = "POST"
) -> bytes:
    """A model call as a client writes it."""
    content = orjson.dumps(BODY) if body is None else body
    head = f"{method} {CHAT} HTTP/1.1\r\nhost: {live.url.removeprefix('http://')}\r\n{more}"
    head += f"authorization: Bearer {key}\r\ncontent-length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def said(live: Live, sent: bytes, *, until: bytes = b"", times: int = 1) -> bytes:
    """What comes back: up to the given number of `until`, or to the end of the connection."""
    host, port = live.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    received = b""
    try:
        async with asyncio.timeout(10):
            writer.write(sent)
            while piece := await reader.read(1 << 16):
                received += piece
                if until and received.count(until) >= times:
                    break
    finally:
        writer.close()
        await writer.wait_closed()
    return received


async def test_head_and_body_come_together_and_whole(redis_url: str, tmp_path: Path) -> None:
    async with serving(answers()) as server:
        async with gateway(redis_url, tmp_path / "home", {"model": server.url}) as live:
            key = await live.new_key(requests_per_minute=1000)
            received = await said(live, request(live, key), until=b"}}")
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert orjson.loads(body) == HELLO
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    for once in (
        b"content-length",
        b"content-type",
        b"date",
        b"x-request-id",
        b"x-ratelimit-remaining-requests",
    ):
        assert names.count(once) == 1, once
    assert b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n"


async def test_two_requests_in_one_packet_are_answered_in_their_order(redis_url: str, tmp_path: Path) -> None:
    seen = 0

    async def handler(call: Call) -> None:
        nonlocal seen
        await call.body()
        seen += 1
        await call.send(http(200, orjson.dumps({"number": seen, "end": "}}"})))

    async with serving(handler) as server:
        async with gateway(redis_url, tmp_path / "home", {"model": server.url}) as live:
            key = await live.new_key()
            received = await said(live, request(live, key) * 3, until=b'"}}"', times=3)
    assert [int(part[:1]) for part in received.split(b'"number":')[1:]] == [1, 2, 3]
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 3


@pytest.mark.parametrize(
    ("handler", "method", "status"),
    [
        (answers(), "POST", b"200 OK"),
        (answers({"error": "no"}, 400), "POST", b"400 Bad Request"),
        (answers(), "PUT", b"405 Method Not Allowed"),
    ],
    ids=["answer", "refusal", "problem"],
)
async def test_a_client_that_wants_the_connection_closed_gets_the_same(
    redis_url: str, tmp_path: Path, handler: Handler, method: str, status: bytes
) -> None:
    async with serving(handler) as server:
        async with gateway(redis_url, tmp_path / "home", {"model": server.url}) as live:
            key = await live.new_key()
            kept = await said(live, request(live, key, method=method), until=b"}")
            closed = await said(live, request(live, key, method=method, more="connection: close\r\n"))
    for received in (kept, closed):
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 " + status)
        assert isinstance(orjson.loads(body), dict)
    assert b"\r\nconnection: close" in closed.lower()
    assert b"\r\nconnection: close" not in kept.lower()


async def test_a_chunked_answer_of_the_upstream_gets_a_length(redis_url: str, tmp_path: Path) -> None:
    content = orjson.dumps(HELLO)

    async def handler(call: Call) -> None:
        await call.body()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        await call.send(head + chunk(content[:20]) + chunk(content[20:]) + b"0\r\n\r\n")

    async with serving(handler) as server:
        async with gateway(redis_url, tmp_path / "home", {"model": server.url}) as live:
            answer = await live.call("POST", CHAT, key=await live.new_key(), body=BODY)
    assert answer.json == HELLO
    assert answer.headers["content-length"] == str(len(content))
    assert "transfer-encoding" not in answer.headers


async def test_an_idle_connection_is_closed_and_a_busy_one_kept(redis_url: str, tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        await call.body()
        await asyncio.sleep(2.5)
        await call.send(http(200, orjson.dumps(HELLO)))

    async with serving(handler) as server:
        async with gateway(
            redis_url, tmp_path / "home", {"model": server.url}, guard=Guard(), keep_alive_seconds=1.0
        ) as live:
            key = await live.new_key()
            begun = asyncio.get_running_loop().time()
            received = await said(live, request(live, key))
            took = asyncio.get_running_loop().time() - begun
    assert orjson.loads(received.partition(b"\r\n\r\n")[2]) == HELLO
    assert 3.4 < took < 6, "closed a second after the answer, looked for twice a second"


async def test_what_waits_before_the_handler_is_in_the_latency(redis_url: str, tmp_path: Path) -> None:
    """LiteLLM's page on latency overhead: time before the handler was invisible in its own figures."""
    async with serving(answers()) as server:
        async with gateway(redis_url, tmp_path / "home", {"model": server.url}) as live:
            sent = request(live, await live.new_key())
            host, port = live.url.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent[:30])
            await asyncio.sleep(0.4)
            writer.write(sent[30:])
            await reader.readuntil(b"}}")
            writer.close()
            page = (await live.call("GET", "/metrics")).body.decode()
    seconds = [
        float(line.rpartition(" ")[2])
        for line in page.splitlines()
        if line.startswith('gen_ai_client_operation_duration_seconds_sum{service="model"')
    ]
    assert len(seconds) == 1
    assert 0.4 <= seconds[0] < 5
    assert "latticework_gateway_in_flight 0" in page
    assert "latticework_event_loop_lag_seconds" in page
