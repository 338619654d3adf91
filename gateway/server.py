"""The HTTP server's own guards: deadlines for heads, bodies and readers, and news of hang-ups.

uvicorn's protocol bounds none of these. The guard looks at all connections twice a second, so a
request pays a few attribute writes and no timer. The application reaches its connection as
`scope["latticework.connection"]`, and sends an answer that is whole with one write instead of two:
the second system call would cost more than all checks of the key.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

import orjson
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from shared.problems import BadRequest, Problem

CONNECTION = "latticework.connection"
BEGUN = "latticework.begun"
"""Where the scope tells when the first byte of the request came; `time.perf_counter` seconds."""
LOOK_EVERY = 0.5


class TooSlow(Problem):
    status, code, title = 408, "request_timeout", "The request came too slowly"


class HeadTooLarge(Problem):
    status, code, title = 431, "head_too_large", "The head of the request is larger than allowed"


@dataclass
class Guard:
    """What a client may take its time with. Seconds, bytes, and bytes a second."""

    header_seconds: float = 10.0
    body_seconds: float = 10.0
    body_rate: float = 1024.0
    write_seconds: float = 60.0
    head_bytes: int = 64 * 1024
    connections: set[GuardedProtocol] = field(default_factory=set)
    _timer: asyncio.TimerHandle | None = None

    def protocol(self) -> type[GuardedProtocol]:
        """A protocol class for `uvicorn.Config(http=...)` that this guard watches."""
        return type("WatchedProtocol", (GuardedProtocol,), {"guard": self})

    def add(self, connection: GuardedProtocol) -> None:
        """Begin to watch."""
        self.connections.add(connection)
        if self._timer is None:
            self._timer = connection.loop.call_later(LOOK_EVERY, self._look, connection.loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for connection in list(self.connections):
            connection.check(now)
        if self.connections:
            self._timer = loop.call_later(LOOK_EVERY, self._look, loop)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's httptools protocol under a guard."""

    guard: Guard

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_gone: Callable[[], object] | None = None
        self._head_since: float | None = None
        self._head_bytes = 0
        self._body_since: float | None = None
        self._body_bytes = 0
        self._blocked_since: float | None = None
        self._idle_since: float | None = None

    # What the application uses.

    def answer(self, scope: Scope, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> bool:
        """Send head and body of a whole answer at once; `headers` may name its length or not.

        False, and nothing is sent, where the usual way has to be taken: the client reads slowly or
        wants the connection closed, the answer has no body, or it has begun.
        """
        cycle = self.cycle
        if (
            cycle.scope is not scope  # Pipelined: an earlier request than the newest is answered.
            or not body
            or cycle.response_started
            or cycle.disconnected
            or not cycle.keep_alive
            or cycle.access_log
            or self.flow.write_paused
            or scope["method"] == "HEAD"
        ):
            return False
        parts = [STATUS_LINE[status]]
        for name, value in cycle.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for name, value in headers:
            if name == b"connection":
                return False
            if name != b"content-length":
                parts += (name, b": ", value, b"\r\n")
        parts += (b"content-length: %d\r\n\r\n" % len(body), body)
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        self.transport.write(b"".join(parts))
        cycle.message_event.set()
        cycle.on_response()
        return True

    def break_off(self) -> None:
        """Send what is buffered and close without an end of the answer: the client sees it is cut."""
        if self.cycle is not None:
            self.cycle.disconnected = True
        self.transport.close()

    # What the transport and the parser call.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self.guard.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.guard.connections.discard(self)
        super().connection_lost(exc)
        if self.on_gone is not None:
            self.on_gone()

    def data_received(self, data: bytes) -> None:
        if self._body_since is not None:
            self._body_bytes += len(data)
        else:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > self.guard.head_bytes and not self.transport.is_closing():
            self._refuse(HeadTooLarge(f"Address and headers may have {self.guard.head_bytes} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        scope = cast(dict[str, Any], self.scope)
        scope[CONNECTION] = self
        scope[BEGUN] = time.perf_counter()
        self._idle_since = None
        if self._head_since is None:
            self._head_since = self.loop.time()

    def on_headers_complete(self) -> None:
        self._head_since = None
        self._head_bytes = 0
        self._body_since = self.loop.time()
        self._body_bytes = 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._body_since = None
        self._head_bytes = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.pipeline:
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._idle_since = self.loop.time()

    def pause_writing(self) -> None:
        self._blocked_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._blocked_since = None
        super().resume_writing()

    def check(self, now: float) -> None:
        """Cut the connection if it took too long with what it is doing."""
        guard = self.guard
        if self._head_since is not None and now - self._head_since > guard.header_seconds:
            self._refuse(TooSlow(f"The headers took longer than {guard.header_seconds:g} s."))
        elif self._blocked_since is not None and now - self._blocked_since > guard.write_seconds:
            self.transport.abort()
        elif self._idle_since is not None and now - self._idle_since > self.timeout_keep_alive:
            self.timeout_keep_alive_handler()
        elif self._body_since is not None:
            took = now - self._body_since
            if self.flow.read_paused:  # We are the slow one.
                self._body_since, self._body_bytes = now, 0
            elif took > guard.body_seconds and self._body_bytes < guard.body_rate * took:
                self._refuse(TooSlow(f"The body came slower than {guard.body_rate:g} bytes a second."))

    def send_400_response(self, msg: str) -> None:
        # The parser has given up, so the connection cannot go on.
        self._refuse(BadRequest("What came is no HTTP/1.1 request; a too long address is one cause."))

    def _refuse(self, problem: Problem) -> None:
        """Close the connection, with a problem document unless an answer is under way."""
        started = self.cycle is not None and self.cycle.response_started
        if not started or self.cycle.response_complete:
            document, media_type = problem.body_for("/")
            body = orjson.dumps(document)
            head = b"HTTP/1.1 %d %b\r\nconnection: close\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n"
            phrase = HTTPStatus(problem.status).phrase.encode()
            self.transport.write(head % (problem.status, phrase, media_type.encode(), len(body)) + body)
        self._head_since = self._body_since = None
        self.transport.close()
