"""What arrives is what was sent: framing, pieces, and every way an answer can be wrong."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from shared.upstream import (
    HttpUpstream,
    MalformedResponse,
    Request,
    Timeouts,
    UpstreamDied,
    UpstreamLimits,
    end_to_end,
    header,
)
from tests.unit.upstream.servers import Call, answering, serving

OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.asynccontextmanager
async def client(url: str, **options: object) -> AsyncIterator[HttpUpstream]:
    upstream = HttpUpstream(url, timeouts=Timeouts(connect=2, read=2, first_byte=2), **options)  # type: ignore[arg-type]
    try:
        yield upstream
    finally:
        await upstream.close()


BODIES = {
    "content-length": (OK + b"Content-Length: 5\r\n\r\nhello", b"hello", True),
    "chunked": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
        b"hello",
        True,
    ),
    "trailers": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nDigest: x\r\n\r\n",
        b"hello",
        True,
    ),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", b"", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n", b"", True),
    "not modified with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"", False),
    "connection close": (OK + b"Connection: close\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    "http 1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", False),
    "continue first": (
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello",
        b"hello",
        True,
    ),
    "early hints first": (
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello",
        b"hello",
        True,
    ),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("torn", [False, True], ids=["one packet", "byte by byte"])
async def test_bodies_of_every_framing(name: str, torn: bool) -> None:
    raw, body, reusable = BODIES[name]

    async def handler(call: Call) -> None:
        if not torn:
            await call.send(raw)
            return
        for index in range(len(raw)):
            await call.send(raw[index : index + 1])
            await asyncio.sleep(0)

    async with serving(handler) as server, client(server.url) as upstream:
        for _ in range(2):
            response = await upstream.open(Request("GET", "/"))
            assert await response.read_all(100) == body
            assert await response.read() == b""
            assert header(response.headers, b"link") is None
            await asyncio.sleep(0.01)
        assert server.connections == (1 if reusable else 2)
        assert upstream.active == 0


async def test_a_body_that_ends_with_the_connection() -> None:
    async def handler(call: Call) -> None:
        await call.send(OK + b"\r\nuntil ")
        await asyncio.sleep(0.01)
        await call.send(b"the end")
        call.writer.close()

    async with serving(handler) as server, client(server.url) as upstream:
        response = await upstream.open(Request("GET", "/"))
        assert await response.read_all(100) == b"until the end"
        assert upstream.idle == 0


async def test_head_has_no_body_whatever_its_length_says() -> None:
    async with (
        serving(answering(OK + b"Content-Length: 500\r\n\r\n")) as server,
        client(server.url) as upstream,
    ):
        response = await upstream.open(Request("HEAD", "/"))
        assert (response.status, await response.read()) == (200, b"")
        assert header(response.headers, b"content-length") == b"500"


async def test_each_piece_is_given_on_the_moment_it_comes() -> None:
    """The trap of measured clients: a first piece held back until a buffer fills.

    The server sends the next piece only when the caller has the one before, so a client that holds
    anything back waits for ever.
    """
    received = asyncio.Semaphore(0)

    async def handler(call: Call) -> None:
        await call.send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
        for index in range(5):
            await call.send(b"7\r\npiece %d\r\n" % index)
            await received.acquire()
        await call.send(b"0\r\n\r\n")

    async with serving(handler) as server, client(server.url) as upstream, asyncio.timeout(2):
        response = await upstream.open(Request("GET", "/"))
        pieces = []
        async for piece in response:
            pieces.append(piece)
            received.release()
        assert pieces == [b"piece %d" % index for index in range(5)]


async def test_bodies_pass_byte_for_byte_and_undecoded() -> None:
    random.seed(7)
    body = random.randbytes(3_000_000)
    pieces = [OK + b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"]
    position = 0
    while position < len(body):
        size = random.randint(1, 120_000)
        part = body[position : position + size]
        pieces.append(b"%x\r\n%b\r\n" % (len(part), part))
        position += size
    pieces.append(b"0\r\n\r\n")

    async with serving(answering(b"".join(pieces))) as server, client(server.url) as upstream:
        response = await upstream.open(Request("GET", "/"))
        assert b"".join([piece async for piece in response]) == body
        assert header(response.headers, b"content-encoding") == b"gzip"


async def test_a_slow_reader_stops_the_sender() -> None:
    sent = 0

    async def handler(call: Call) -> None:
        nonlocal sent
        call.writer.transport.set_write_buffer_limits(high=65536)
        await call.send(OK + b"Content-Length: 50000000\r\n\r\n")
        for _ in range(500):
            await call.send(bytes(100_000))
            sent += 100_000

    async with serving(handler) as server, client(server.url) as upstream:
        response = await upstream.open(Request("GET", "/"))
        await asyncio.sleep(0.3)
        assert sent < 20_000_000, "nobody reads, so most of it must still be with the sender"
        size = 0
        async for piece in response:
            size += len(piece)
        assert size == 50_000_000


BROKEN = {
    "not http": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "bad status": b"HTTP/1.1 2x0 OK\r\n\r\n",
    "two lengths": OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunked": OK
    + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "folded garbage": OK + b"no colon here\r\n\r\n",
    "unasked upgrade": b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    "many fields": OK + b"".join(b"x-%d: %b\r\n" % (index, b"y" * 90) for index in range(900)) + b"\r\n",
    "one endless field": OK + b"x-long: " + b"y" * 80_000,
}


@pytest.mark.parametrize("name", BROKEN)
async def test_a_malformed_head_is_said_and_the_connection_dropped(name: str) -> None:
    async with serving(answering(BROKEN[name])) as server, client(server.url) as upstream:
        with pytest.raises(MalformedResponse):
            await upstream.open(Request("GET", "/"))
        assert (upstream.active, upstream.idle) == (0, 0)


async def test_a_malformed_chunk_ends_the_body_with_an_error() -> None:
    raw = OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
    async with serving(answering(raw)) as server, client(server.url) as upstream:
        response = await upstream.open(Request("GET", "/"))
        assert await response.read() == b"hello"
        with pytest.raises(MalformedResponse):
            await response.read()


@pytest.mark.parametrize(
    "head", [b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"]
)
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "reset"])
async def test_half_an_answer_never_looks_whole(head: bytes, reset: bool) -> None:
    async def handler(call: Call) -> None:
        await call.send(OK + head)
        await asyncio.sleep(0.02)
        call.cut() if reset else call.writer.close()

    async with serving(handler) as server, client(server.url) as upstream:
        response = await upstream.open(Request("GET", "/"))
        assert await response.read() == b"half"
        with pytest.raises(UpstreamDied):
            await response.read()
        with pytest.raises(UpstreamDied):
            await response.read()


async def test_bytes_after_a_whole_answer_cost_only_the_connection() -> None:
    raw = OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    async with serving(answering(raw)) as server, client(server.url) as upstream:
        for _ in range(2):
            response = await upstream.open(Request("GET", "/"))
            assert await response.read_all(10) == b"ok"
        assert server.connections == 2


async def test_bytes_on_an_idle_connection_are_never_taken_for_an_answer() -> None:
    async def handler(call: Call) -> None:
        await call.send(OK + b"Content-Length: 2\r\n\r\nok")
        await asyncio.sleep(0.02)
        await call.send(OK + b"Content-Length: 4\r\n\r\nevil")

    async with serving(handler) as server, client(server.url) as upstream:
        await (await upstream.open(Request("GET", "/"))).read_all(10)
        await asyncio.sleep(0.05)
        response = await upstream.open(Request("GET", "/"))
        assert await response.read_all(10) == b"ok"
        assert server.connections == 2


async def test_an_answer_longer_than_the_limit_is_refused() -> None:
    async with (
        serving(answering(OK + b"Content-Length: 5\r\n\r\nhello")) as server,
        client(server.url) as upstream,
    ):
        response = await upstream.open(Request("GET", "/"))
        with pytest.raises(MalformedResponse):
            await response.read_all(4)


async def test_requests_go_out_as_written() -> None:
    bodies: list[bytes] = []

    async def handler(call: Call) -> None:
        bodies.append(await call.body())
        await call.send(OK + b"Content-Length: 0\r\n\r\n")

    async with serving(handler) as server, client(server.url + "/base/") as upstream:
        await upstream.open(Request("POST", "/a?b=c", [(b"x-one", b"1")], b"payload"))
        await upstream.open(Request("POST", "/empty"))
        await upstream.open(Request("GET", "/get"))
        assert upstream.idle == 1
    host = server.url.removeprefix("http://").encode()
    assert server.calls[0] == (
        b"POST /base/a?b=c HTTP/1.1\r\nhost: " + host + b"\r\nx-one: 1\r\ncontent-length: 7\r\n\r\n"
    )
    assert b"content-length: 0" in server.calls[1]
    assert b"content-length" not in server.calls[2]
    assert bodies == [b"payload", b"", b""]


@pytest.mark.parametrize(
    "request_",
    [
        Request("GET", "/ HTTP/1.1\r\nx: y"),
        Request("GET", "/a b"),
        Request("GET", "relative"),
        Request("GET", "/", [(b"x", b"1\r\ny: 2")]),
        Request("GET", "/", [(b"x\n", b"1")]),
        Request("GE T", "/"),
    ],
)
async def test_nothing_can_be_smuggled_into_a_request(request_: Request) -> None:
    async with serving(answering(b"")) as server, client(server.url) as upstream:
        with pytest.raises(ValueError):
            await upstream.open(request_)
        assert (server.connections, upstream.active) == (0, 0)


def test_hop_by_hop_fields_are_not_forwarded() -> None:
    fields = [
        (b"connection", b"close, X-Private"),
        (b"keep-alive", b"timeout=5"),
        (b"transfer-encoding", b"chunked"),
        (b"x-private", b"1"),
        (b"content-type", b"text/plain"),
    ]
    assert end_to_end(fields) == [(b"content-type", b"text/plain")]


def test_an_address_that_is_none_is_refused() -> None:
    for url in ("localhost:80", "ftp://x", "http://"):
        with pytest.raises(ValueError):
            HttpUpstream(url)


def test_limits_have_sane_defaults() -> None:
    assert UpstreamLimits().keep_alive < 5 <= Timeouts().read
