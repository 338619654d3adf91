"""Getting a first good piece of an answer: retries on one model, then the models to fall back to.

The first piece is held until it is known to be good. Before it another try is invisible to the
client; after it there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.auth import Caller
from gateway.proxy.context import Call
from gateway.proxy.estimate import ModelCall
from gateway.proxy.progress import Progress
from gateway.proxy.upstreams import TRANSIENT, back_off, may_repeat, problem_of
from gateway.routing import Metering
from shared.problems import Problem
from shared.upstream import (
    HttpUpstream,
    Request,
    Response,
    UpstreamDied,
    UpstreamError,
    header,
)

EVENT_STREAM = b"text/event-stream"
_JSON = (b"content-type", b"application/json")
_PASSED_ON = (b"traceparent", b"tracestate", b"user-agent")
_ERROR_EVENTS = (b'data: {"error"', b'data:{"error"', b"event: error")


@dataclass(slots=True)
class Answer:
    """An upstream's answer and its first piece, which is empty where the answer has no body."""

    upstream: HttpUpstream
    response: Response
    first: bytes
    is_stream: bool

    @property
    def good(self) -> bool:
        """Whether another try could not do better."""
        status = self.response.status
        return status < 500 and status != 429 and not self.begins_with_error

    @property
    def begins_with_error(self) -> bool:
        """Whether the stream opens with an error event, which is a failure in a 200's clothes."""
        return self.is_stream and self.first.startswith(_ERROR_EVENTS)


async def first_answer(
    call: Call, caller: Caller, wanted: ModelCall, progress: Progress, deadline: float
) -> Answer:
    """The first good answer of the model or of those to fall back to, or the last bad one.

    Raises:
        Problem: no upstream answered at all.
    """
    names = [wanted.model, *call.front.settings.gateway_fallbacks.get(wanted.model, ())]
    answer: Answer | None = None
    problem: Problem | None = None
    for name in names:
        if answer is not None:
            answer.response.close()
        progress.tag = call.front.prices.tag(name)
        current = wanted if name == wanted.model else wanted.for_model(name)
        tried = await _try(call, caller, current, progress, deadline)
        answer, problem = (tried, None) if isinstance(tried, Answer) else (None, tried)
        if answer is not None and answer.good:
            break
    if answer is None:
        assert problem is not None
        raise problem
    progress.owed = answer.good and answer.response.status < 400
    return answer


async def _try(
    call: Call, caller: Caller, wanted: ModelCall, progress: Progress, deadline: float
) -> Answer | Problem:
    """One model, as often as the settings and the deadline allow."""
    front = call.front
    body = _body(caller, wanted, progress, call.route.metering)
    headers = _headers(call, caller)
    attempt = 0
    while True:
        attempt += 1
        last = attempt > front.settings.gateway_retries
        upstream = front.upstreams.pick(call.route.service)
        request = Request("POST", call.route.prefix, headers, body, True, deadline)
        progress.owed = True
        try:
            answer = await _open(upstream, request)
        except UpstreamError as error:
            progress.owed = False
            if last or not may_repeat(error, replayable=True):
                return problem_of(error)
            if not await back_off(attempt, deadline, error.retry_after):
                return problem_of(error)
            continue
        repeat = answer.response.status in TRANSIENT or answer.begins_with_error
        if not repeat or last:
            return answer
        progress.owed = False
        if not await back_off(attempt, deadline, _retry_after(answer.response)):
            return answer
        answer.response.close()


async def _open(upstream: HttpUpstream, request: Request) -> Answer:
    response = await upstream.open(request)
    kind = header(response.headers, b"content-type")
    is_stream = response.status == 200 and kind is not None and kind[:17].lower() == EVENT_STREAM
    try:
        first = await response.read()
        if is_stream and not first:
            raise UpstreamDied("the stream ended before it began")
    except BaseException:
        response.close()
        raise
    return Answer(upstream, response, first, is_stream)


def _body(caller: Caller, wanted: ModelCall, progress: Progress, metering: Metering) -> bytes:
    """The body for the upstream: usage asked for, and bounded where a budget has to hold."""
    if metering is Metering.EMBEDDING:
        return wanted.body
    bound = None
    if wanted.max_output is None and caller.key.budget_id is not None:
        bound = progress.tag.max_output_tokens
    return wanted.outgoing(usage=wanted.stream and not wanted.wants_usage, max_output=bound)


def _headers(call: Call, caller: Caller) -> list[tuple[bytes, bytes]]:
    headers = [
        _JSON,
        (b"authorization", call.principal_token(caller)),
        (b"x-request-id", call.request_id.encode()),
    ]
    given = call.headers
    headers += [(name, given[name]) for name in _PASSED_ON if name in given]
    return headers


def _retry_after(response: Response) -> float | None:
    value = header(response.headers, b"retry-after") or b""
    return float(value) if value.isdigit() else None
