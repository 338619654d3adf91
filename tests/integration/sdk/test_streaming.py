"""Event streams over a real connection: order, errors inside, reconnects, and closing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

import latticework
from latticework import AsyncClient, AsyncStream, Client, RetryPolicy, Stream
from latticework._calls import Call, get
from latticework._events import chunks
from tests.integration.sdk.server import ScriptedServer, problem

PATIENT = RetryPolicy(max_retries=5, first_delay=0.01, max_delay=0.02)


class Number(BaseModel):
    n: int


def events(*pieces: bytes, gone: asyncio.Event | None = None) -> StreamingResponse:
    async def body() -> AsyncIterator[bytes]:
        try:
            for piece in pieces:
                yield piece
                await asyncio.sleep(0)
            if gone is not None:
                await asyncio.sleep(30)
        finally:
            if gone is not None:
                gone.set()

    return StreamingResponse(body(), media_type="text/event-stream")


def stream(client: Client, reconnect: RetryPolicy | None = None) -> Stream[Number]:
    return Stream(client, get("/v1/stream"), chunks(Number), reconnect=reconnect)


def test_items_in_order_however_the_bytes_are_cut(server: ScriptedServer, client: Client) -> None:
    text = b': hello\r\n\r\ndata: {"n":\ndata: 1}\n\nevent: x\ndata: {"n": 2}\r\n\r\ndata: [DONE]\n\n'
    server.answer("GET", "/v1/stream", events(*(text[i : i + 1] for i in range(len(text)))))
    with stream(client) as items:
        assert [item.n for item in items] == [1, 2]


def test_request_is_sent_when_the_first_item_is_asked_for(server: ScriptedServer, client: Client) -> None:
    items = stream(client)
    assert server.requests == []
    with pytest.raises(latticework.NotFound):
        next(iter(items))


@pytest.mark.parametrize(
    "event",
    [
        b'event: error\ndata: {"status": 503, "code": "unavailable", "detail": "went away"}\n\n',
        b'data: {"error": {"message": "went away", "type": "x", "code": "unavailable", "status": 503}}\n\n',
    ],
)
def test_error_inside_a_stream_raises_as_a_status_does(
    server: ScriptedServer, client: Client, event: bytes
) -> None:
    server.answer("GET", "/v1/stream", events(b'data: {"n": 1}\n\n', event))
    with stream(client) as items:
        assert next(items).n == 1
        with pytest.raises(latticework.ServiceUnavailable, match="went away") as caught:
            next(items)
    assert caught.value.code == "unavailable"


def test_stream_that_breaks_off_is_no_clean_end(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/stream", events(b'data: {"n": 1}\n\ndata: {"n"'))
    with pytest.raises(latticework.Interrupted):
        list(stream(client))


def test_page_instead_of_a_stream(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/stream", JSONResponse({"n": 1}))
    with pytest.raises(latticework.UnexpectedResponse, match="text/event-stream"):
        list(stream(client))


def test_reconnects_after_the_last_event_seen(server: ScriptedServer, client: Client) -> None:
    """Every third event the connection breaks; each event arrives once."""

    async def numbers(request: Request) -> Response:
        last = int(request.headers.get("last-event-id", 0))
        pieces = [f'id: {n}\ndata: {{"n": {n}}}\n\n'.encode() for n in range(last + 1, min(last + 4, 21))]
        return events(*pieces, *([b"data: [DONE]\n\n"] if last + 3 >= 20 else [b"id: 99\ndata: {"]))

    busy = JSONResponse(problem(502, "bad_gateway"), status_code=502)

    async def refuse(request: Request) -> Response:
        return busy

    server.on("GET", "/v1/stream", numbers, refuse, refuse, refuse, refuse, numbers)
    assert [item.n for item in stream(client, PATIENT)] == list(range(1, 21))


def test_reconnecting_ends_when_nothing_comes_any_more(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/stream", events())
    with pytest.raises(latticework.Interrupted):
        list(stream(client, PATIENT))
    assert len(server.requests) == 6


def test_everything_was_delivered_already(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/stream", Response(status_code=204))
    assert list(stream(client, PATIENT)) == []


async def test_closing_an_async_stream_ends_the_request(
    server: ScriptedServer, async_client: AsyncClient
) -> None:
    gone = asyncio.Event()
    server.answer("GET", "/v1/stream", events(b'data: {"n": 1}\n\n', gone=gone))
    async with AsyncStream(async_client, Call("GET", "/v1/stream"), chunks(Number)) as items:
        assert (await anext(items)).n == 1
    for _ in range(200):
        if gone.is_set():
            break
        await asyncio.sleep(0.02)
    assert gone.is_set()


def test_closing_a_stream_early_ends_the_request(server: ScriptedServer, client: Client) -> None:
    gone = asyncio.Event()
    server.answer("GET", "/v1/stream", events(b'data: {"n": 1}\n\n', gone=gone))
    with stream(client) as items:
        for item in items:
            assert item.n == 1
            break
    server.answer("GET", "/v1/other", JSONResponse({}))
    for _ in range(200):
        if gone.is_set():
            break
        client.request("GET", "/v1/other")
    assert gone.is_set()
