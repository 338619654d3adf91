"""The client's side of a proxied call: its headers on the way in, its answer on the way out."""

from __future__ import annotations

import os
import random
import time
from typing import Any

import orjson
from starlette.types import Scope, Send

from gateway.server import CONNECTION
from shared.problems import BadRequest, Problem
from shared.upstream import HOP_BY_HOP

REQUEST_ID = b"x-request-id"

#: Fields of a request that are ours to write, or that must not reach a service from outside.
NOT_FORWARDED = HOP_BY_HOP | {
    b"host", b"content-length", b"authorization", b"cookie", b"expect", REQUEST_ID,
    b"lattice-tenant", b"lattice-timeout", b"forwarded", b"x-forwarded-for",
    b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip",
}  # fmt: skip

#: Fields of an answer that the server writes itself.
NOT_RETURNED = HOP_BY_HOP | {b"date", b"server", REQUEST_ID}

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [high + low for high in _DIGITS for low in _DIGITS]
_random = random.Random(os.urandom(32))


def new_request_id() -> str:
    """`req_<ulid>` in about a microsecond. Unique, but not a secret."""
    pairs = _PAIRS
    now = time.time_ns() // 1_000_000
    tail = _random.getrandbits(80)
    return (
        f"req_{pairs[now >> 40]}{pairs[now >> 30 & 1023]}{pairs[now >> 20 & 1023]}"
        f"{pairs[now >> 10 & 1023]}{pairs[now & 1023]}"
        f"{pairs[tail >> 70]}{pairs[tail >> 60 & 1023]}{pairs[tail >> 50 & 1023]}"
        f"{pairs[tail >> 40 & 1023]}{pairs[tail >> 30 & 1023]}{pairs[tail >> 20 & 1023]}"
        f"{pairs[tail >> 10 & 1023]}{pairs[tail & 1023]}"
    )


def given_request_id(headers: dict[bytes, bytes]) -> str | None:
    """The caller's own request id, if it is a plain word."""
    given = headers.get(REQUEST_ID)
    if given is not None and 0 < len(given) <= 128 and given.isascii():
        text = given.decode("ascii")
        if text.isprintable() and " " not in text:
            return text
    return None


def bearer(headers: dict[bytes, bytes]) -> str | None:
    """The bearer token, or None."""
    value = headers.get(b"authorization")
    if value is None or value[:7].lower() != b"bearer ":
        return None
    try:
        return value[7:].strip().decode("ascii")
    except UnicodeDecodeError:
        return None


def timeout_of(headers: dict[bytes, bytes], longest: float) -> float:
    """Seconds the call may take: what `Lattice-Timeout` says, at most `longest`.

    Raises:
        BadRequest: it is not a positive number.
    """
    value = headers.get(b"lattice-timeout")
    if value is None:
        return longest
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise BadRequest("Lattice-Timeout must be a positive number of seconds.")
    return min(seconds, longest)


def length_of(headers: dict[bytes, bytes]) -> int | None:
    """The declared length of the body, or None."""
    value = headers.get(b"content-length", b"")
    return int(value) if value.isdigit() else None


class Reply:
    """Sends one answer and remembers how far it got."""

    __slots__ = ("_request_id", "_scope", "_send", "complete", "extra", "started_at", "status")

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self._scope = scope
        self._send = send
        self._request_id = request_id.encode()
        self.extra: list[tuple[bytes, bytes]] = []
        """Headers for whatever answer there will be."""
        self.status = 0
        self.complete = False
        self.started_at = 0.0

    async def start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send the head."""
        headers.append((REQUEST_ID, self._request_id))
        if self.extra:
            headers += self.extra
        self.status = status
        self.started_at = time.perf_counter()
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send head and body together."""
        connection: Any = self._scope.get(CONNECTION)
        if connection is not None:
            headers.append((REQUEST_ID, self._request_id))
            if connection.answer(self._scope, status, headers + self.extra, body):
                self.status = status
                self.started_at = time.perf_counter()
                self.complete = True
                return
            headers.pop()
        await self.start(status, headers)
        await self.body(body, more=False)

    async def body(self, piece: bytes, *, more: bool) -> None:
        """Send a piece, the last one with `more=False`."""
        if not more:
            self.complete = True
        await self._send({"type": "http.response.body", "body": piece, "more_body": more})

    async def problem(self, problem: Problem) -> None:
        """Answer with a problem; only before `start`."""
        document, media_type = problem.body_for(self._scope["path"], request_id=self._request_id.decode())
        body = orjson.dumps(document)
        headers = [
            (b"content-type", media_type.encode()),
            (b"content-length", b"%d" % len(body)),
            *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
        ]
        await self.whole(problem.status, headers, body)
