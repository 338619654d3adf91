"""Connections to one upstream: reuse, limits, breaker and the one retry that is always safe."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

from shared.upstream.breaker import BreakerPolicy, BreakerState, CircuitBreaker
from shared.upstream.connection import Connection, StaleConnection
from shared.upstream.errors import (
    ConnectFailed,
    ConnectTimeout,
    DeadlineReached,
    UpstreamBusy,
    UpstreamDied,
    UpstreamError,
)
from shared.upstream.exchange import Abandoned, Exchange
from shared.upstream.message import Request, Timeouts

_DEFAULT_PORTS = {"http": 80, "https": 443}
_DEFAULT_POLICY = BreakerPolicy()
_BODY_EXPECTED = frozenset({"POST", "PUT", "PATCH"})


@dataclass(frozen=True, slots=True)
class UpstreamLimits:
    """Bounds of one upstream.

    `max_waiting` calls may queue for a slot (each at most `Timeouts.pool` seconds), the next one is
    refused. `keep_alive` is shorter than the 5 s after which common servers close idle connections.
    """

    max_concurrency: int = 256
    max_waiting: int = 64
    keep_alive: float = 4.0
    max_head_bytes: int = 64 * 1024


#: A call that must not be sent twice takes a connection only while it is this fresh (seconds).
_FRESH = 1.0


class HttpUpstream:
    """An `Upstream` over HTTP/1.1 on pooled connections. Belongs to the loop it is first used in.

    5xx answers and every broken exchange count against the breaker when the exchange ends; calls
    given up by the caller do not count.
    """

    def __init__(
        self,
        base_url: str,
        *,
        name: str | None = None,
        timeouts: Timeouts | None = None,
        limits: UpstreamLimits | None = None,
        breaker: BreakerPolicy | None = _DEFAULT_POLICY,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ValueError(f"{base_url!r} is not an http or https address")
        self.name = name or parts.netloc
        self.timeouts = timeouts or Timeouts()
        self.limits = limits or UpstreamLimits()
        self.breaker = CircuitBreaker(self.name, breaker) if breaker is not None else None
        self._host = parts.hostname
        self._port = parts.port or _DEFAULT_PORTS[parts.scheme]
        self._prefix = parts.path.rstrip("/")
        self._host_line = b"\r\nhost: " + parts.netloc.rpartition("@")[2].encode("ascii") + b"\r\n"
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._idle: list[Connection] = []
        self._connections: set[Connection] = set()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self.active = 0

    @property
    def idle(self) -> int:
        """Connections ready for reuse."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Calls queued for a slot."""
        return len(self._waiting)

    @property
    def state(self) -> BreakerState:
        """The breaker's state; closed when there is no breaker."""
        return self.breaker.state if self.breaker is not None else BreakerState.CLOSED

    async def open(self, request: Request) -> Exchange:
        """Send `request` and wait for the head of the answer."""
        head = self._head(request)
        if self.active < self.limits.max_concurrency:
            self.active += 1
        else:
            await self._wait_for_slot(request)
        exchange = Exchange(request.method, request.deadline, self._on_end)
        try:
            if self.breaker is not None:
                exchange.probe = self.breaker.admit()
        except UpstreamError:
            self._release()
            raise
        try:
            connection = self._take_idle(request) or await self._connect(request)
        except UpstreamError as error:
            self._judge(exchange, error)
            self._release()
            raise
        except BaseException:
            self._judge(exchange, Abandoned())
            self._release()
            raise
        return await self._send(connection, exchange, head, request)

    async def close(self) -> None:
        """Close every connection and refuse further calls."""
        self._closed = True
        for connection in list(self._connections):
            connection.drop(UpstreamDied("the client is shutting down"))
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(UpstreamBusy(f"the client of {self.name} is shutting down"))
        # Transports close in the next turn of the loop.
        await asyncio.sleep(0)

    async def _send(
        self, connection: Connection, exchange: Exchange, head: bytes, request: Request
    ) -> Exchange:
        connection.start(exchange, head, request)
        try:
            await exchange.head()
        except StaleConnection as error:
            if not request.replayable or not isinstance(request.body, bytes) or self._closed:
                raise
            return await self._send_again(head, request, error)
        return exchange

    async def _send_again(self, head: bytes, request: Request, cause: UpstreamDied) -> Exchange:
        """Once more, on a connection that is certainly fresh. The first try has given its slot back."""
        if self.active >= self.limits.max_concurrency:
            raise cause
        self.active += 1
        exchange = Exchange(request.method, request.deadline, self._on_end)
        try:
            if self.breaker is not None:
                exchange.probe = self.breaker.admit()
            connection = await self._connect(request)
        except BaseException as error:
            self._judge(exchange, error if isinstance(error, UpstreamError) else Abandoned())
            self._release()
            raise
        connection.start(exchange, head, request)
        await exchange.head()
        return exchange

    # Slots.

    async def _wait_for_slot(self, request: Request) -> None:
        if len(self._waiting) >= self.limits.max_waiting or self._closed:
            raise UpstreamBusy(f"upstream {self.name} has no free place", retry_after=1.0)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(self.timeouts.pool):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._release()  # The slot came in the same moment; pass it on.
            else:
                self._waiting = deque(other for other in self._waiting if other is not waiter)
            if isinstance(error, TimeoutError):
                message = f"upstream {self.name} had no free place for {self.timeouts.pool:g} s"
                raise UpstreamBusy(message, retry_after=1.0) from None
            raise

    def _release(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.active -= 1

    # Connections.

    def _take_idle(self, request: Request) -> Connection | None:
        idle = self._idle
        while idle:
            connection = idle[-1]
            if not request.replayable:
                age = connection.loop.time() - connection.idle_since
                if age > _FRESH:
                    return None
            idle.pop()
            if not connection.closing:
                return connection
        return None

    async def _connect(self, request: Request) -> Connection:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ConnectFailed(f"the client of {self.name} is shutting down")
        seconds = self.timeouts.connect
        if request.deadline is not None:
            seconds = min(seconds, request.deadline - loop.time())
            if seconds <= 0:
                raise DeadlineReached("the deadline of the request has passed")
        try:
            async with asyncio.timeout(seconds):
                _, connection = await loop.create_connection(
                    lambda: Connection(
                        loop, self.timeouts, self.limits.max_head_bytes, self._on_idle, self._on_lost
                    ),
                    self._host,
                    self._port,
                    ssl=self._tls,
                )
        except TimeoutError:
            message = f"upstream {self.name} accepted no connection within {seconds:.3g} s"
            raise ConnectTimeout(message) from None
        except OSError as error:
            message = f"upstream {self.name} cannot be reached: {error.strerror or error}"
            raise ConnectFailed(message) from None
        self._connections.add(connection)
        return connection

    def _on_idle(self, connection: Connection) -> None:
        connection.rest(self.limits.keep_alive)
        self._idle.append(connection)

    def _on_lost(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    # Ends.

    def _on_end(self, exchange: Exchange, error: BaseException | None) -> None:
        self._judge(exchange, error)
        self._release()

    def _judge(self, exchange: Exchange, error: BaseException | None) -> None:
        breaker = self.breaker
        if breaker is None:
            return
        if error is None and exchange.status < 500:
            breaker.success(exchange.probe)
        elif error is None or self._at_fault(error):
            breaker.failure(exchange.probe)
        else:
            breaker.abandon(exchange.probe)

    @staticmethod
    def _at_fault(error: BaseException) -> bool:
        """A caller's deadline, a caller's cancel and a failing request body are not the upstream's."""
        return isinstance(error, UpstreamError) and not isinstance(
            error, (Abandoned, DeadlineReached, StaleConnection)
        )

    def _head(self, request: Request) -> bytes:
        target = self._prefix + request.target
        if not target.startswith("/") or " " in target or " " in request.method:
            raise ValueError(f"{request.method} {target!r} is not a request line")
        parts = [f"{request.method} {target} HTTP/1.1".encode("ascii"), self._host_line]
        for name, value in request.headers:
            parts += (name, b": ", value, b"\r\n")
        lines = 2 + len(request.headers)
        if isinstance(request.body, bytes):
            if request.body or request.method in _BODY_EXPECTED:
                parts.append(b"content-length: %d\r\n" % len(request.body))
                lines += 1
        else:
            length = request.content_length
            chunked = b"transfer-encoding: chunked\r\n"
            parts.append(chunked if length is None else b"content-length: %d\r\n" % length)
            lines += 1
        parts.append(b"\r\n")
        head = b"".join(parts)
        if head.count(b"\n") != lines + 1 or head.count(b"\r") != lines + 1:
            raise ValueError("a header field contains a line break")
        return head
