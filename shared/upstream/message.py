"""What goes to an upstream and what comes back, and the seam behind which any client can stand."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Headers = Sequence[tuple[bytes, bytes]]

#: RFC 9110 section 7.6.1: they speak of one connection and must not be forwarded.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)


@dataclass(slots=True)
class Request:
    """One call.

    `target` is path and query, already escaped. `headers` carry no `host`, no hop-by-hop fields and
    no `content-length` (the client writes these three itself); `content_length` names the size of a
    streamed body where it is known, otherwise the body goes out chunked. `replayable` says that the
    call may reach the upstream twice without harm. `deadline` is on the clock of the event loop.
    """

    method: str
    target: str
    headers: Headers = ()
    body: bytes | AsyncIterator[bytes] = b""
    replayable: bool = False
    deadline: float | None = None
    content_length: int | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Four named ones and the time to the first byte of the answer."""

    connect: float = 5.0
    pool: float = 1.0
    write: float = 30.0
    read: float = 120.0
    first_byte: float = 300.0


class Response(Protocol):
    """An answer whose head has arrived; its body is read piece by piece as it comes."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """Names in lower case, values untouched, in order of arrival, hop-by-hop ones included."""

    @property
    def complete(self) -> bool:
        """Whether the whole body has arrived (it may not have been read yet)."""

    async def read(self) -> bytes:
        """Whatever has arrived, waiting for at least one byte; b"" at the end.

        Raises ReadTimeout, DeadlineReached, UpstreamDied or MalformedResponse.
        """

    async def read_all(self, limit: int) -> bytes:
        """The rest of the body; MalformedResponse when it is longer than `limit` bytes."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def close(self) -> None:
        """Give up an unfinished answer: the connection is closed at once. Harmless when complete."""


class Upstream(Protocol):
    """Something that answers HTTP requests."""

    @property
    def name(self) -> str: ...

    async def open(self, request: Request) -> Response:
        """Send, and return when the head of the answer is here. Raises an UpstreamError."""

    async def close(self) -> None:
        """Close every connection; running calls fail with UpstreamDied."""


def header(headers: Headers, name: bytes) -> bytes | None:
    """The first value of a field; `name` in lower case, as are the names in `headers`."""
    for field, value in headers:
        if field == name:
            return value
    return None


def end_to_end(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The fields a proxy may forward: without hop-by-hop ones and those `connection` names."""
    dropped: frozenset[bytes] | set[bytes] = HOP_BY_HOP
    named = header(headers, b"connection")
    if named is not None and named.lower() not in (b"close", b"keep-alive"):
        dropped = HOP_BY_HOP | {token.strip().lower() for token in named.split(b",")}
    return [field for field in headers if field[0] not in dropped]
