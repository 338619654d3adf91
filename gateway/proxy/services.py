"""Calls of all other services: checked, counted and streamed both ways without a look inside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from gateway.auth import Caller
from gateway.limits import Usage
from gateway.limits.limiter import describe
from gateway.proxy.context import BodyTooLarge, Call, pieces_of_body
from gateway.proxy.reply import NOT_FORWARDED, NOT_RETURNED, length_of, timeout_of
from gateway.proxy.upstreams import back_off, may_repeat, problem_of
from shared.problems import NotFound
from shared.upstream import Request, Response, UpstreamError

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_HELD = 64 * 1024
"""A body that came whole in its first piece, if not larger, is kept so that it can be sent again."""


async def handle(call: Call) -> None:
    """Answer one call.

    Raises:
        Problem: nothing has been sent yet.
        ClientLeft: the client hung up before its body was whole.
    """
    front = call.front
    caller = await call.caller()
    front.upstreams.pick(call.route.service)
    limit = call.route.body_limit or front.settings.body_limit_bytes
    declared = length_of(call.headers)
    if declared is not None and declared > limit:
        raise BodyTooLarge(limit)
    target = _target(call)
    seconds = timeout_of(call.headers, front.settings.gateway_stream_deadline_seconds)
    deadline = asyncio.get_running_loop().time() + seconds
    meta = describe(caller.key, call.route.service, "")
    admission = await front.limiter.admit(caller, call.call_id, meta)
    usage = Usage(failed=True)
    watcher = None
    try:
        call.show_limits(admission)
        body, held = await _body(call, limit)
        watcher = call.cancel_when_gone(body_read=held)
        length = None if held else declared
        headers = _headers(call, caller, seconds)
        method = call.scope["method"]
        request = Request(method, target, headers, body, False, deadline, length)
        repeatable = method in _IDEMPOTENT or b"idempotency-key" in call.headers
        request.replayable = held and repeatable
        response = await _open(call, request, held)
        try:
            usage.failed = response.status >= 500
            await _pass_on(call, response)
        finally:
            response.close()
    except asyncio.CancelledError:
        if not call.gone:
            raise
    finally:
        call.stop_watching(watcher)
        front.limiter.settle(admission, usage)


def _target(call: Call) -> str:
    """The path as it was sent, so that nothing is read differently behind us than here."""
    raw: bytes = call.scope.get("raw_path") or call.scope["path"].encode()
    path = raw.decode("ascii", "replace").partition("?")[0]
    plain: str = call.scope["path"]
    segments = plain.split("/")
    if ".." in segments or "." in segments or "\\" in plain or not path.isprintable() or " " in path:
        raise NotFound("There is no such path.")
    query: bytes = call.scope["query_string"]
    return f"{path}?{query.decode('latin-1')}" if query else path


async def _body(call: Call, limit: int) -> tuple[bytes | AsyncIterator[bytes], bool]:
    """The body, and whether it is held whole."""
    pieces = pieces_of_body(call.receive, limit)
    declared = length_of(call.headers)
    if declared is None and b"transfer-encoding" not in call.headers:
        return b"", True
    if declared is not None and declared <= _HELD:
        return b"".join([piece async for piece in pieces]), True
    return pieces, False


def _headers(call: Call, caller: Caller, seconds: float) -> list[tuple[bytes, bytes]]:
    headers = [field for field in call.scope["headers"] if field[0] not in NOT_FORWARDED]
    headers.append((b"authorization", call.principal_token(caller)))
    headers.append((b"x-request-id", call.request_id.encode()))
    headers.append((b"lattice-timeout", b"%.3f" % seconds))
    return headers


async def _open(call: Call, request: Request, held: bool) -> Response:
    """The head of the answer, tried again where that is harmless."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return await call.front.upstreams.pick(call.route.service).open(request)
        except UpstreamError as error:
            last = attempt > call.front.settings.gateway_retries
            if last or not held or not may_repeat(error, request.replayable):
                raise problem_of(error) from None
            assert request.deadline is not None
            if not await back_off(attempt, request.deadline, error.retry_after):
                raise problem_of(error) from None


async def _pass_on(call: Call, response: Response) -> None:
    reply = call.reply
    headers = [field for field in response.headers if field[0] not in NOT_RETURNED]
    if response.status in (204, 304):  # No body follows, whatever length was announced.
        headers = [field for field in headers if field[0] != b"content-length"]
    piece = b""
    if response.complete:
        piece = await response.read()
    await reply.start(response.status, headers)
    if response.complete:
        await reply.body(piece, more=False)
        return
    try:
        while piece := await response.read():
            await reply.body(piece, more=True)
    except UpstreamError:
        call.break_off()
        return
    await reply.body(b"", more=False)
