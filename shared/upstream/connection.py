"""One connection to an upstream and the exchange that is running on it.

Knows sockets, HTTP/1.1 framing (llhttp through httptools) and clocks. Knows nothing of pools,
breakers or retries: it reports every end of an exchange exactly once through `on_end`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from shared.upstream.errors import (
    DeadlineReached,
    FirstByteTimeout,
    MalformedResponse,
    ReadTimeout,
    UpstreamDied,
    WriteTimeout,
)
from shared.upstream.exchange import Exchange, Phase
from shared.upstream.message import Request, Timeouts

_BODILESS = frozenset({204, 304})


class StaleConnection(UpstreamDied):
    """A kept connection was closed by the server in the moment we used it: the usual race."""


class Connection(asyncio.Protocol):
    """A socket with at most one exchange at a time, reusable when `idle` is reported."""

    __slots__ = (
        "_clock_at",
        "_deadline",
        "_framed",
        "_head_bytes",
        "_informational",
        "_message_done",
        "_on_idle",
        "_on_lost",
        "_parser",
        "_paused",
        "_phase",
        "_reusable",
        "_sent_at",
        "_taken",
        "_timeouts",
        "_timer",
        "_transport",
        "_writable",
        "_written",
        "answered",
        "exchange",
        "idle_since",
        "loop",
        "max_head_bytes",
        "pump",
        "used",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        timeouts: Timeouts,
        max_head_bytes: int,
        on_idle: Callable[[Connection], None],
        on_lost: Callable[[Connection], None],
    ) -> None:
        self.loop = loop
        self.max_head_bytes = max_head_bytes
        self.exchange: Exchange | None = None
        self.pump: asyncio.Task[None] | None = None
        self.used = 0
        self.answered = False
        self.idle_since = 0.0
        self._timeouts = timeouts
        self._on_idle = on_idle
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser = HttpResponseParser(self)
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._head_bytes = 0
        self._framed = False
        self._informational = False
        self._message_done = False
        self._reusable = False
        self._phase = Phase.IDLE
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._clock_at = 0.0
        self._sent_at = 0.0
        self._written = 0
        self._taken = 0

    @property
    def closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()

    # Sending.

    def start(self, exchange: Exchange, head: bytes, request: Request) -> None:
        """Write the request; a streamed body is written by a task of its own."""
        transport = self._transport
        assert transport is not None
        self.exchange = exchange
        self.used += 1
        self.answered = False
        self._sent_at = self.loop.time()
        self._taken = 0
        exchange.attach(self)
        if isinstance(request.body, bytes):
            data = head + request.body if request.body else head
            self._written = len(data)
            transport.write(data)
        else:
            self._written = len(head)
            transport.write(head)
            chunked = request.content_length is None
            self.pump = self.loop.create_task(self._send_body(request.body, chunked))

    async def _send_body(self, body: AsyncIterator[bytes], chunked: bool) -> None:
        transport = self._transport
        assert transport is not None
        exchange = self.exchange
        try:
            async for piece in body:
                if transport.is_closing():
                    return
                if piece:
                    data = b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
                    self._written += len(data)
                    transport.write(data)
                if self._writable is not None:
                    await self._writable
            if chunked and not transport.is_closing():
                transport.write(b"0\r\n\r\n")
        except asyncio.CancelledError:
            raise
        except Exception as error:
            # The source of the body failed; half a request must not look like a whole one.
            if self.exchange is exchange:
                self.drop(error)
            return
        self._sent_at = self.loop.time()
        self.pump = None
        if exchange is not None:
            exchange.wake()

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self.loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    # Receiving.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:
            self.drop(MalformedResponse("data came without a request"))
            return
        self.answered = True
        if not exchange.head_arrived:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            if self._message_done:  # Whatever follows a whole answer only costs the connection.
                self._reusable = False
                self._finish()
                return
            reason = error.__context__ or error
            if not isinstance(reason, MalformedResponse):
                reason = MalformedResponse(f"the upstream does not speak HTTP/1.1: {error}")
            self.drop(reason)
            return
        if self._message_done:
            self._finish()
        elif not exchange.head_arrived and self._head_bytes > self.max_head_bytes:
            self.drop(MalformedResponse(f"the head is larger than {self.max_head_bytes} bytes"))
        exchange.wake()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._stop_timer()
        self.resume_writing()
        exchange = self.exchange
        closed_by_end = exchange is not None and exchange.head_arrived and not self._framed and error is None
        if closed_by_end:
            self._reusable = False
            self._finish()
        else:
            kind = StaleConnection if self.used > 1 and not self.answered else UpstreamDied
            self.drop(kind("the upstream closed the connection before its answer was whole"))
        self._on_lost(self)

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    # Called by the parser.

    def on_message_begin(self) -> None:
        if self._message_done:
            raise MalformedResponse("a second answer came to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        if exchange.head_arrived:
            return  # A trailer: bounded by llhttp's own line limits and the read timeout.
        name = name.lower()
        if name == b"content-length" or (name == b"transfer-encoding" and b"chunked" in value):
            self._framed = True
        exchange.headers.append((name, value))

    def on_headers_complete(self) -> None:
        exchange = self.exchange
        assert exchange is not None
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                raise MalformedResponse("the upstream switched protocols unasked")
            self._informational = True
            return
        if self._head_bytes > self.max_head_bytes:
            size = sum(len(name) + len(value) for name, value in exchange.headers)
            if size > self.max_head_bytes:
                raise MalformedResponse(f"the head is larger than {self.max_head_bytes} bytes")
        exchange.status = status
        exchange.head_arrived = True
        if exchange.method == "HEAD" or status in _BODILESS:
            # llhttp cannot know of HEAD and would wait for the announced body.
            keep = self._parser.should_keep_alive()
            self._reusable = keep and exchange.method != "HEAD" and not self._framed
            self._message_done = True

    def on_body(self, piece: bytes) -> None:
        exchange = self.exchange
        assert exchange is not None
        if self._message_done:
            raise MalformedResponse("a body came where none may be")
        if exchange.feed(piece) and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._informational:
            self._informational = False
            self._framed = False
            if self.exchange is not None:
                self.exchange.headers.clear()
            return
        if not self._message_done:
            self._reusable = self._parser.should_keep_alive()
            self._message_done = True

    # Ending.

    def _reset_message(self) -> None:
        self._head_bytes = 0
        self._framed = False
        self._informational = False
        self._message_done = False
        self._reusable = False

    def _finish(self) -> None:
        """The answer is complete: hand the connection back or close it."""
        exchange, reusable = self.exchange, self._reusable
        assert exchange is not None
        self.exchange = None
        if self.pump is not None:  # Answered before it had the whole request.
            self.pump.cancel()
            self.pump = None
            reusable = False
        self._reset_message()
        if self._transport is not None and not self._transport.is_closing():
            if reusable:
                self.resume()
                self._on_idle(self)
            else:
                self._transport.close()
        exchange.end(None)

    def drop(self, error: BaseException) -> None:
        """Close at once; a running exchange ends with `error`."""
        exchange, self.exchange = self.exchange, None
        if self.pump is not None:
            if self.pump is not asyncio.current_task(self.loop):
                self.pump.cancel()
            self.pump = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.abort()
        if exchange is not None:
            exchange.end(error)

    # The clock: one lazy timer a connection, moved only when it has to ring earlier.

    def start_clock(self, phase: Phase) -> None:
        now = self.loop.time()
        if phase is Phase.READ:
            wait = self._timeouts.read
        else:
            wait = min(self._timeouts.write, self._timeouts.first_byte)
        self._phase = phase
        exchange = self.exchange
        deadline = now + wait
        if exchange is not None and exchange.deadline is not None:
            deadline = min(deadline, exchange.deadline)
        self._set_clock(deadline)

    def rest(self, seconds: float) -> None:
        """Close the connection unless it is used again within `seconds`."""
        self._phase = Phase.IDLE
        self.idle_since = self.loop.time()
        self._set_clock(self.idle_since + seconds)

    def stop_clock(self) -> None:
        if self._phase is not Phase.IDLE:
            self._deadline = None

    def _set_clock(self, deadline: float) -> None:
        self._deadline = deadline
        if self._timer is None or self._clock_at > deadline:
            self._stop_timer()
            self._clock_at = deadline
            self._timer = self.loop.call_at(deadline, self._ring)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        self._timer = None
        deadline, now = self._deadline, self.loop.time()
        if deadline is None:
            return
        if now < deadline:
            self._set_clock(deadline)
            return
        exchange = self.exchange
        if exchange is None:
            self.drop(UpstreamDied("idle"))
        elif exchange.deadline is not None and now >= exchange.deadline:
            self.drop(DeadlineReached("the deadline of the request has passed"))
        elif self._phase is Phase.READ:
            seconds = self._timeouts.read
            self.drop(ReadTimeout(f"the upstream fell silent for {seconds:g} s in its answer"))
        else:
            self._ring_while_sending(exchange, now)

    def _ring_while_sending(self, exchange: Exchange, now: float) -> None:
        """Slow uploads are no fault while bytes move; the first byte counts from the last one sent."""
        assert self._transport is not None
        unsent = self._transport.get_write_buffer_size()
        if unsent > 0:
            taken = self._written - unsent
            if taken <= self._taken:
                seconds = self._timeouts.write
                self.drop(WriteTimeout(f"the upstream took no byte of the request for {seconds:g} s"))
                return
            self._taken = taken
            self._sent_at = now
            wake_at = now + self._timeouts.write
        elif self.pump is not None:  # The caller is the slow one.
            wake_at = now + self._timeouts.write
        else:
            wake_at = self._sent_at + self._timeouts.first_byte
            if now >= wake_at:
                seconds = self._timeouts.first_byte
                self.drop(FirstByteTimeout(f"no answer began within {seconds:g} s"))
                return
        if exchange.deadline is not None:
            wake_at = min(wake_at, exchange.deadline)
        self._set_clock(wake_at)
