"""Calls of models: worst case reserved, forwarded, settled.

Whatever way a call ends (answered, refused, broken off by either side) it is settled in one place,
in a `finally` that awaits nothing. Nothing is judged: what the model says passes through.
"""

from __future__ import annotations

import asyncio
import time

import orjson

from gateway.auth import Caller
from gateway.limits import Admission
from gateway.limits.limiter import describe
from gateway.proxy.attempts import Answer, first_answer
from gateway.proxy.context import BodyTooLarge, Call, ClientLeft
from gateway.proxy.estimate import ModelCall, read_call
from gateway.proxy.progress import Held, Progress
from gateway.proxy.reply import NOT_RETURNED, length_of, timeout_of
from gateway.proxy.upstreams import UpstreamFailed, problem_of
from gateway.proxy.usage import TAIL, StreamMeter, usage_of_answer
from shared.problems import MethodNotAllowed, Problem, Unauthorized, UnsupportedMediaType
from shared.upstream import UpstreamError

#: Bounds of one reservation (tokens, micro-dollars): many of them still fit into 64 bits.
_MOST_TOKENS = 1 << 42
_MOST_MONEY = 1 << 50


class Models:
    """The handler of metered routes."""

    def __init__(self, held_bytes: int) -> None:
        self.held = Held(held_bytes)
        self._known: set[str] = set()

    async def handle(self, call: Call) -> None:
        """Answer one call.

        Raises:
            Problem: nothing has been sent yet.
            ClientLeft: the client hung up before its body was whole.
        """
        if call.scope["method"] != "POST":
            raise MethodNotAllowed("Use POST.", headers={"Allow": "POST"})
        caller = await call.caller()
        if call.headers.get(b"content-encoding", b"identity") != b"identity":
            raise UnsupportedMediaType("Send the body without content-encoding.")
        call.front.upstreams.pick(call.route.service)  # A missing service is said at once.
        body = await self._read_body(call)
        try:
            await self._run(call, caller, read_call(body, call.route.metering))
        finally:
            self.held.give(len(body))

    async def _read_body(self, call: Call) -> bytes:
        """The whole body; counted as held until `held.give`."""
        limit = call.front.settings.gateway_model_body_bytes
        declared = length_of(call.headers)
        if declared is not None and declared > limit:
            raise BodyTooLarge(limit)
        parts: list[bytes] = []
        size = 0
        try:
            while True:
                message = await call.receive()
                if message["type"] == "http.disconnect":
                    raise ClientLeft
                piece = message.get("body", b"")
                if size + len(piece) > limit:
                    raise BodyTooLarge(limit)
                self.held.take(len(piece))
                size += len(piece)
                parts.append(piece)
                if not message.get("more_body", False):
                    return parts[0] if len(parts) == 1 else b"".join(parts)
        except BaseException:
            self.held.give(size)
            raise

    async def _run(self, call: Call, caller: Caller, wanted: ModelCall) -> None:
        front = call.front
        settings = front.settings
        longest = (
            settings.gateway_stream_deadline_seconds if wanted.stream else settings.gateway_deadline_seconds
        )
        deadline = asyncio.get_running_loop().time() + timeout_of(call.headers, longest)
        admission = await _admit(call, caller, wanted)
        progress = Progress(front.prices.tag(wanted.model), wanted.prompt_expected())
        admission.so_far = progress.usage
        watcher = None
        try:
            if admission.requests_left >= 0 or admission.tokens_left >= 0:
                call.show_limits(admission)
            watcher = call.cancel_when_gone()
            answer = await first_answer(call, caller, wanted, progress, deadline)
            try:
                if answer.is_stream:
                    await _stream(call, caller, wanted, answer, progress)
                else:
                    await _whole(call, answer, progress)
            finally:
                answer.response.close()
        except asyncio.CancelledError:
            if not call.gone:
                raise
        finally:
            call.stop_watching(watcher)
            usage = progress.usage()
            if usage.failed and not usage.cost and wanted.model not in self._known:
                # Names that no model ever answered to come from outside and would fill the ledger.
                admission.meta = describe(caller.key, call.route.service, "")
            elif not usage.failed and len(self._known) < 1000:
                self._known.add(wanted.model)
            front.limiter.settle(admission, usage)
            front.metrics.model_call(call.route.metering.value, caller.key.tenant_class, usage)


async def _admit(call: Call, caller: Caller, wanted: ModelCall) -> Admission:
    """Reserve the worst case: by the dearest model the call may end up at."""
    front = call.front
    settings = front.settings
    prices = front.prices
    tag = prices.tag(wanted.model)
    others = [prices.tag(name) for name in settings.gateway_fallbacks.get(wanted.model, ())]
    output = wanted.max_output
    if output is None:
        output = max(tag.max_output_tokens, *(other.max_output_tokens for other in others), 0)
    completion = min(wanted.outputs * output, _MOST_TOKENS)
    prompt = wanted.prompt_at_most(settings.gateway_bytes_per_token, settings.gateway_image_tokens)
    usd = tag.worst(prompt, completion)
    for other in others:
        usd = max(usd, other.worst(prompt, completion))
    usd = min(usd, _MOST_MONEY)
    return await front.limiter.admit(
        caller,
        call.call_id,
        describe(caller.key, call.route.service, wanted.model),
        rate_tokens=wanted.prompt_expected() + completion,
        tokens=prompt + completion,
        usd=usd,
    )


async def _whole(call: Call, answer: Answer, progress: Progress) -> None:
    """An answer that is no stream: passed on as it comes, its end kept to find usage in."""
    response, reply = answer.response, call.reply
    headers = [field for field in response.headers if field[0] not in NOT_RETURNED]
    piece = answer.first
    if response.complete:  # The usual case: head and body came together.
        rest = await response.read()
        body = piece + rest if rest else piece
        _finish(body, True, response.status, progress)
        await reply.whole(response.status, headers, body)
        return
    await reply.start(response.status, headers)
    end = b""
    size = 0
    try:
        while piece:
            size += len(piece)
            progress.delivered += len(piece) if progress.owed else 0
            end = piece[-TAIL:] if len(piece) >= TAIL else (end + piece)[-TAIL:]
            await reply.body(piece, more=True)
            piece = await response.read()
    except UpstreamError:
        call.break_off()
        return
    _finish(end, size == len(end), response.status, progress)
    await reply.body(b"", more=False)


def _finish(end: bytes, whole: bool, status: int, progress: Progress) -> None:
    if status < 400:
        progress.ok = True
        progress.delivered = max(progress.delivered, len(end))
        progress.tokens = usage_of_answer(end, whole)


async def _stream(call: Call, caller: Caller, wanted: ModelCall, answer: Answer, progress: Progress) -> None:
    """Server-sent events: each piece out as it comes in, the end checked."""
    response, reply, key = answer.response, call.reply, caller.key
    meter = StreamMeter(strip=not wanted.wants_usage)
    if answer.good:
        progress.meter = meter
    headers = [
        field for field in response.headers if field[0] not in NOT_RETURNED and field[0] != b"content-length"
    ]
    await reply.start(response.status, headers)
    problem: Problem | None = None
    try:
        piece = answer.first
        while piece:
            out = meter.feed(piece)
            if out:
                await reply.body(out, more=True)
            if key.revoked:
                problem = Unauthorized("The key has been revoked.", code="key_revoked")
                break
            piece = await response.read()
    except UpstreamError as error:
        problem = problem_of(error)
    elapsed = time.perf_counter() - reply.started_at
    call.front.metrics.stream(key.tenant_class, reply.started_at - call.started, meter.chunks, elapsed)
    rest = meter.rest()
    if meter.done and problem is None:
        progress.ok = answer.good
        await reply.body(rest, more=False)
        return
    if problem is None:
        problem = UpstreamFailed("The model's answer ended in the middle.")
        if answer.upstream.breaker is not None:
            answer.upstream.breaker.failure()
    # An answer that began is 200 whatever happens; the event and the missing end say it is not whole.
    event = b"\n\ndata: " + orjson.dumps(problem.openai_document()) + b"\n\n"
    await reply.body(rest + event if answer.good else rest, more=True)
    call.break_off()
