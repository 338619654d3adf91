"""Reuse, retries, limits, clocks, cancels and the breaker of one upstream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from shared.upstream import (
    BreakerPolicy,
    BreakerState,
    CircuitOpen,
    ConnectFailed,
    ConnectTimeout,
    DeadlineReached,
    FirstByteTimeout,
    HttpUpstream,
    ReadTimeout,
    Request,
    Timeouts,
    UpstreamBusy,
    UpstreamDied,
    UpstreamError,
    UpstreamLimits,
    WriteTimeout,
)
from tests.unit.upstream.servers import Call, serving

HELLO = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GET = Request("GET", "/", replayable=True)


@contextlib.asynccontextmanager
async def using(upstream: HttpUpstream) -> AsyncIterator[HttpUpstream]:
    try:
        yield upstream
    finally:
        await upstream.close()


async def hello(call: Call) -> None:
    await call.body()
    await call.send(HELLO)


async def never(call: Call) -> None:
    await call.closed_by_peer()


def state(upstream: HttpUpstream) -> BreakerState:
    return upstream.state


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.005)


async def test_connections_are_kept_and_reused() -> None:
    async with serving(hello) as server, using(HttpUpstream(server.url)) as upstream:
        for _ in range(20):
            await (await upstream.open(GET)).read_all(10)
        responses = await asyncio.gather(*(upstream.open(GET) for _ in range(5)))
        assert [response.status for response in responses] == [200] * 5
        assert server.connections == 5
        assert upstream.idle == 5


async def test_idle_connections_are_closed_in_time() -> None:
    limits = UpstreamLimits(keep_alive=0.05)
    async with serving(hello) as server, using(HttpUpstream(server.url, limits=limits)) as upstream:
        await (await upstream.open(GET)).read_all(10)
        assert upstream.idle == 1
        await until(lambda: upstream.idle == 0)


async def closes_after_each(call: Call) -> None:
    """A server whose keep-alive ends just when the next request is under way."""
    if call.connection == 1 and b"second" in call.head:
        call.cut()
    else:
        await hello(call)


async def test_a_stale_connection_is_replaced_without_the_caller_noticing() -> None:
    async with serving(closes_after_each) as server, using(HttpUpstream(server.url)) as upstream:
        await (await upstream.open(GET)).read_all(10)
        response = await upstream.open(Request("POST", "/second", body=b"x", replayable=True))
        assert await response.read_all(10) == b"hello"
        assert server.connections == 2
        assert state(upstream) is BreakerState.CLOSED
        assert upstream.active == 0


async def test_a_call_that_must_not_run_twice_is_not_repeated() -> None:
    async with serving(closes_after_each) as server, using(HttpUpstream(server.url)) as upstream:
        await (await upstream.open(GET)).read_all(10)
        with pytest.raises(UpstreamDied):
            await upstream.open(Request("POST", "/second", body=b"x"))
        assert len(server.calls) == 2


async def test_a_call_that_must_not_run_twice_avoids_old_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.upstream.pool._FRESH", 0.01)
    async with serving(hello) as server, using(HttpUpstream(server.url)) as upstream:
        await (await upstream.open(GET)).read_all(10)
        await asyncio.sleep(0.03)
        await (await upstream.open(Request("POST", "/", body=b"x"))).read_all(10)
        assert server.connections == 2


async def test_a_dying_upstream_is_not_retried_for_ever() -> None:
    async def handler(call: Call) -> None:
        call.cut()

    async with serving(handler) as server, using(HttpUpstream(server.url)) as upstream:
        with pytest.raises(UpstreamDied):
            await upstream.open(GET)
        assert server.connections == 1
        assert upstream.active == 0


async def test_connect_failures_are_named() -> None:
    async with using(HttpUpstream("http://127.0.0.1:9")) as upstream:
        with pytest.raises(ConnectFailed):
            await upstream.open(GET)
    async with serving(never) as server:  # Takes the connection and never says a word of TLS.
        url = server.url.replace("http:", "https:")
        async with using(HttpUpstream(url, timeouts=Timeouts(connect=0.05))) as upstream:
            with pytest.raises(ConnectTimeout):
                await upstream.open(GET)
            assert upstream.active == 0


async def test_first_byte_timeout() -> None:
    times = Timeouts(first_byte=0.1)
    async with serving(never) as server, using(HttpUpstream(server.url, timeouts=times)) as upstream:
        with pytest.raises(FirstByteTimeout):
            await upstream.open(GET)


async def test_read_timeout_counts_silence_not_length() -> None:
    async def handler(call: Call) -> None:
        await call.send(STREAM)
        for _ in range(6):
            await asyncio.sleep(0.05)
            await call.send(b"1\r\nx\r\n")
        await call.closed_by_peer()

    times = Timeouts(read=0.15)
    async with serving(handler) as server, using(HttpUpstream(server.url, timeouts=times)) as upstream:
        response = await upstream.open(GET)
        pieces = [await response.read() for _ in range(6)]
        assert pieces == [b"x"] * 6
        with pytest.raises(ReadTimeout):
            await response.read()


async def test_write_timeout_when_the_upstream_takes_nothing() -> None:
    async def handler(call: Call) -> None:
        call.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(3)

    times = Timeouts(write=0.2, first_byte=5)
    async with serving(handler) as server, using(HttpUpstream(server.url, timeouts=times)) as upstream:
        with pytest.raises(WriteTimeout):
            await upstream.open(Request("POST", "/", body=bytes(30_000_000)))


@pytest.mark.parametrize("streaming", [False, True])
async def test_the_deadline_of_the_request_ends_head_and_body(streaming: bool) -> None:
    async def handler(call: Call) -> None:
        if streaming:
            await call.send(STREAM)
        await call.closed_by_peer()

    async with serving(handler) as server, using(HttpUpstream(server.url)) as upstream:
        deadline = asyncio.get_running_loop().time() + 0.1

        async def call() -> bytes:
            response = await upstream.open(Request("GET", "/", deadline=deadline))
            return await response.read()

        with pytest.raises(DeadlineReached):
            await call()
        assert state(upstream) is BreakerState.CLOSED


@pytest.mark.parametrize("where", ["head", "body", "close"])
async def test_giving_up_closes_the_connection_at_once(where: str) -> None:
    gone = asyncio.Event()

    async def handler(call: Call) -> None:
        if where != "head":
            await call.send(STREAM)
        await call.closed_by_peer()
        gone.set()

    async with serving(handler) as server, using(HttpUpstream(server.url)) as upstream:
        if where == "close":
            (await upstream.open(GET)).close()
        else:

            async def call() -> None:
                await (await upstream.open(GET)).read()

            task = asyncio.create_task(call())
            await until(lambda: len(server.calls) == 1)
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with asyncio.timeout(1):
            await gone.wait()
        assert upstream.active == 0


async def test_streamed_request_bodies() -> None:
    received: list[bytes] = []

    async def handler(call: Call) -> None:
        if b"content-length" in call.head:
            received.append(await call.body())
        else:
            received.append(await call.reader.readuntil(b"0\r\n\r\n"))
        await call.send(HELLO)

    async def body() -> AsyncIterator[bytes]:
        for piece in (b"one", b"", b"three"):
            yield piece
            await asyncio.sleep(0.01)

    async with serving(handler) as server, using(HttpUpstream(server.url)) as upstream:
        await (await upstream.open(Request("POST", "/", body=body()))).read_all(10)
        await (await upstream.open(Request("POST", "/", body=body(), content_length=8))).read_all(10)
    assert received == [b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n", b"onethree"]


async def test_an_endless_body_waits_for_the_upstream_and_stops_at_an_early_answer() -> None:
    produced = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal produced
        while True:
            produced += 100_000
            yield bytes(100_000)

    async def handler(call: Call) -> None:
        await asyncio.sleep(0.1)
        await call.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    async with serving(handler) as server, using(HttpUpstream(server.url)) as upstream:
        response = await upstream.open(Request("POST", "/", body=body()))
        assert response.status == 413
        assert upstream.idle == 0, "half a request is still on the connection"
        stopped_at = produced
        assert stopped_at < 20_000_000
        await asyncio.sleep(0.05)
        assert produced == stopped_at


async def test_a_failing_body_reaches_the_caller_and_not_the_upstream() -> None:
    class SourceFailed(Exception):
        pass

    async def body() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(0.02)
        raise SourceFailed

    async with serving(never) as server, using(HttpUpstream(server.url)) as upstream:
        with pytest.raises(SourceFailed):
            await upstream.open(Request("POST", "/", body=body()))
        assert upstream.active == 0
        assert state(upstream) is BreakerState.CLOSED


async def test_the_concurrency_limit_queues_a_few_and_refuses_the_rest() -> None:
    release = asyncio.Event()
    at_once = peak = 0

    async def handler(call: Call) -> None:
        nonlocal at_once, peak
        at_once += 1
        peak = max(peak, at_once)
        await release.wait()
        at_once -= 1
        await call.send(HELLO)

    limits = UpstreamLimits(max_concurrency=2, max_waiting=2)
    async with serving(handler) as server, using(HttpUpstream(server.url, limits=limits)) as upstream:
        tasks = [asyncio.create_task(upstream.open(GET)) for _ in range(4)]
        await until(lambda: upstream.waiting == 2 and at_once == 2)
        with pytest.raises(UpstreamBusy) as refused:
            await upstream.open(GET)
        assert refused.value.retry_after is not None
        release.set()
        assert [(await task).status for task in tasks] == [200] * 4
        assert peak == 2
        assert upstream.active == 0


async def test_waiting_for_a_place_has_a_limit_and_gives_the_place_back() -> None:
    limits = UpstreamLimits(max_concurrency=1)
    times = Timeouts(pool=0.05)
    async with (
        serving(never) as server,
        using(HttpUpstream(server.url, limits=limits, timeouts=times)) as upstream,
    ):
        first = asyncio.create_task(upstream.open(GET))
        await until(lambda: len(server.calls) == 1)
        with pytest.raises(UpstreamBusy):
            await upstream.open(GET)
        queued = asyncio.create_task(upstream.open(GET))
        await asyncio.sleep(0.01)
        queued.cancel()
        first.cancel()
        await asyncio.gather(first, queued, return_exceptions=True)
        assert (upstream.active, upstream.waiting) == (0, 0)


POLICY = BreakerPolicy(window=10, minimum=4, threshold=0.5, cooldown=0.05)


async def test_the_breaker_opens_on_server_errors_and_closes_after_a_good_probe() -> None:
    healthy = False

    async def handler(call: Call) -> None:
        await call.send(HELLO if healthy else HELLO.replace(b"200 OK", b"500 No"))

    async with serving(handler) as server, using(HttpUpstream(server.url, breaker=POLICY)) as upstream:
        for _ in range(4):
            await (await upstream.open(GET)).read_all(10)
        with pytest.raises(CircuitOpen) as refused:
            await upstream.open(GET)
        assert refused.value.retry_after is not None
        assert len(server.calls) == 4
        await asyncio.sleep(0.07)
        await (await upstream.open(GET)).read_all(10)
        assert state(upstream) is BreakerState.OPEN, "the probe failed"
        healthy = True
        await asyncio.sleep(0.13)
        await (await upstream.open(GET)).read_all(10)
        assert state(upstream) is BreakerState.CLOSED


async def run_streams(end: Callable[[Call], Awaitable[None]], *, close_early: bool) -> BreakerState:
    async def handler(call: Call) -> None:
        await call.send(STREAM + b"1\r\nx\r\n")
        await asyncio.sleep(0.01)
        await end(call)

    async with serving(handler) as server, using(HttpUpstream(server.url, breaker=POLICY)) as upstream:
        for _ in range(6):
            with contextlib.suppress(UpstreamError):
                response = await upstream.open(GET)
                await response.read()
                if close_early:
                    response.close()
                else:
                    await response.read_all(100)
        return upstream.state


async def test_breaker_is_not_a_no_op_for_streams() -> None:
    """Portkey #1289: a stream that opens well and dies in the middle is a failure."""

    async def die(call: Call) -> None:
        call.cut()

    assert await run_streams(die, close_early=False) is BreakerState.OPEN


async def test_breaker_ignores_callers_that_hang_up() -> None:
    async def wait(call: Call) -> None:
        await call.closed_by_peer()

    assert await run_streams(wait, close_early=True) is BreakerState.CLOSED


async def test_an_abandoned_probe_is_given_back() -> None:
    async with serving(never) as server, using(HttpUpstream(server.url, breaker=POLICY)) as upstream:
        assert upstream.breaker is not None
        for _ in range(4):
            upstream.breaker.failure()
        await asyncio.sleep(0.07)
        probe = asyncio.create_task(upstream.open(GET))
        await until(lambda: len(server.calls) == 1)
        assert state(upstream) is BreakerState.HALF_OPEN
        with pytest.raises(CircuitOpen):
            await upstream.open(GET)
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)
        assert state(upstream) is BreakerState.OPEN
        assert upstream.breaker.admit() is True


async def test_close_ends_running_calls() -> None:
    async with serving(never) as server:
        upstream = HttpUpstream(server.url)
        running = asyncio.create_task(upstream.open(GET))
        await until(lambda: len(server.calls) == 1)
        await upstream.close()
        with pytest.raises(UpstreamDied):
            await running
        with pytest.raises(ConnectFailed):
            await upstream.open(GET)
