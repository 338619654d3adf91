"""A request on its way and its answer, as the caller sees it: head, pieces, end.

Knows waiting and buffering. Knows nothing of bytes on the wire; its `Connection` feeds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

from shared.upstream.errors import MalformedResponse, UpstreamError

if TYPE_CHECKING:
    from shared.upstream.connection import Connection

#: Unread bytes of an answer above which the socket is no longer read.
HIGH_WATER = 256 * 1024


class Phase(Enum):
    """What the clock of a connection is running for."""

    IDLE = auto()
    SEND = auto()
    READ = auto()


class Exchange:
    """A request on its way and its answer; the `Response` handed to callers.

    `on_end(exchange, error)` is called exactly once: with None when the answer is complete, with the
    error when it cannot be completed, with `Abandoned` when the caller closed it before its end.
    """

    __slots__ = (
        "_buffered",
        "_connection",
        "_on_end",
        "_pieces",
        "_waiter",
        "complete",
        "deadline",
        "error",
        "head_arrived",
        "headers",
        "method",
        "probe",
        "status",
    )

    def __init__(
        self,
        method: str,
        deadline: float | None,
        on_end: Callable[[Exchange, BaseException | None], None],
    ) -> None:
        self.method = method
        self.deadline = deadline
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.head_arrived = False
        self.complete = False
        self.error: BaseException | None = None
        self.probe = False
        self._on_end = on_end
        self._connection: Connection | None = None
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None

    async def head(self) -> None:
        """Wait until status and headers are here."""
        while not self.head_arrived:
            if self.error is not None:
                raise self.error
            await self._wait(Phase.SEND)

    async def read(self) -> bytes:
        while True:
            pieces = self._pieces
            if pieces:
                self._pieces = []
                self._buffered = 0
                if self._connection is not None:
                    self._connection.resume()
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            if self.complete:
                return b""
            if self.error is not None:
                raise self.error
            await self._wait(Phase.READ)

    async def read_all(self, limit: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while piece := await self.read():
            size += len(piece)
            if size > limit:
                self.close()
                raise MalformedResponse(f"the answer is longer than {limit} bytes")
            parts.append(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read():
            yield piece

    def close(self) -> None:
        if self._connection is not None:
            self._connection.drop(Abandoned())

    # What the connection calls.

    def attach(self, connection: Connection) -> None:
        self._connection = connection

    def feed(self, piece: bytes) -> bool:
        """Take a piece of the body; whether the reader lags so far that the socket must wait."""
        self._pieces.append(piece)
        self._buffered += len(piece)
        return self._buffered > HIGH_WATER

    def end(self, error: BaseException | None) -> None:
        self._connection = None
        if error is None:
            self.complete = True
        else:
            self.error = error
        self._on_end(self, error)
        self.wake()

    def wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _wait(self, phase: Phase) -> None:
        connection = self._connection
        assert connection is not None
        connection.start_clock(phase)
        self._waiter = connection.loop.create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._waiter = None
            connection.stop_clock()


class Abandoned(UpstreamError):
    """Marks an exchange that our own side gave up; says nothing about the upstream."""

    def __init__(self) -> None:
        super().__init__("the exchange was closed by the caller")
