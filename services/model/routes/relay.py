"""Carries out a plan against an engine and answers the client: bytes as they come where possible.

The answer is an ASGI application of its own. While it works it listens for the client: one that has
gone cancels everything that was asked of the engine, which frees its slot.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.model.engines.base import EngineUnavailable, ProxiedEngine
from services.model.metrics import CallTimer
from services.model.protocol.answers import JsonObject, add_usage, merge_answers, renumbered, usage_of
from services.model.protocol.events import DONE, DONE_EVENT, DoneWatcher, EventReader, error_event, event
from services.model.protocol.failures import EngineDown, EngineFailed, from_engine
from services.model.protocol.plan import CHAT, COMPLETIONS, EMBEDDINGS, Plan
from shared.problems import DeadlineExceeded, Problem
from shared.telemetry import logger
from shared.upstream import (
    DeadlineReached,
    FirstByteTimeout,
    NotSent,
    ReadTimeout,
    Request,
    UpstreamError,
)
from shared.upstream import Response as EngineResponse

log = logger(__name__)

ANSWER_LIMIT = 64 << 20
ERROR_LIMIT = 1 << 20
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies in front must not collect a stream before they pass it on.
    (b"x-accel-buffering", b"no"),
]
_PROMPT_PARAMS = {CHAT: "messages", COMPLETIONS: "prompt", EMBEDDINGS: "input"}
BROKE_OFF = "The model broke off in the middle of its answer; what came before is incomplete."


class Relay(Response):
    """The answer to one request. Problems before the first byte are answered as such."""

    def __init__(self, engine: ProxiedEngine, plan: Plan, timer: CallTimer) -> None:
        super().__init__()
        self._engine = engine
        self._plan = plan
        self._timer = timer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, lambda: self._answer(send))

    async def _answer(self, send: Send) -> None:
        with self._timer:
            try:
                with contextlib.ExitStack() as places:
                    for _ in self._plan.bodies:
                        places.enter_context(self._engine.lease())
                    await self._exchange(send)
            except EngineUnavailable as error:
                raise engine_down(error) from None

    async def _exchange(self, send: Send) -> None:
        responses = await self._open_all()
        try:
            if not self._plan.stream:
                await self._send_whole(responses, send)
            elif self._plan.raw:
                await self._send_bytes(responses[0], send)
            else:
                await self._send_chunks(responses, send)
        finally:
            for response in responses:
                response.close()

    async def _open_all(self) -> list[EngineResponse]:
        """All calls, opened side by side; when one fails the others are given up."""
        tasks = [asyncio.ensure_future(self._open(body)) for body in self._plan.bodies]
        try:
            return list(await asyncio.gather(*tasks))
        except BaseException:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if not isinstance(result, BaseException):
                    result.close()
            raise

    async def _open(self, body: bytes) -> EngineResponse:
        engine = self._engine
        headers = [*engine.headers, (b"content-type", b"application/json")]
        # The same prompt twice does no harm beyond the work.
        request = Request("POST", engine.prefix + self._plan.path, headers, body, replayable=True)
        try:
            response = await engine.client.open(request)
            if response.status >= 400:
                content = await response.read_all(ERROR_LIMIT)
                log.info("engine refused", engine=engine.kind, status=response.status)
                raise from_engine(response.status, content, self._prompt_param)
        except UpstreamError as error:
            raise upstream_problem(error, engine.retry_after) from None
        return response

    @property
    def _prompt_param(self) -> str:
        return _PROMPT_PARAMS[self._plan.path]

    async def _send_whole(self, responses: Sequence[EngineResponse], send: Send) -> None:
        try:
            contents = [await response.read_all(ANSWER_LIMIT) for response in responses]
        except UpstreamError as error:
            raise upstream_problem(error, self._engine.retry_after) from None
        await send_json(send, contents[0] if self._plan.raw else self._merged(contents))

    def _merged(self, contents: Sequence[bytes]) -> bytes:
        plan = self._plan
        answers: list[JsonObject] = [orjson.loads(content) for content in contents]
        if plan.whole is not None:
            answers = [plan.whole(answer, index) for index, answer in enumerate(answers)]
        return orjson.dumps(answers[0] if len(answers) == 1 else merge_answers(answers, plan.choices_each))

    async def _send_bytes(self, response: EngineResponse, send: Send) -> None:
        """The hot path: nothing is parsed, and only the end of the stream is looked at."""
        watcher = DoneWatcher()
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        try:
            while piece := await response.read():
                self._timer.first_byte()
                watcher.feed(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            broke = not watcher.done
            if not broke:
                self._timer.streamed(watcher.tokens)
        except UpstreamError as error:
            log.warning("stream broke", engine=self._engine.kind, reason=str(error))
            broke = True
        last = self._broken_end() if broke else b""
        await send({"type": "http.response.body", "body": last})

    def _broken_end(self) -> bytes:
        self._timer.failed(EngineFailed.code)
        return error_event(EngineFailed(BROKE_OFF))

    async def _send_chunks(self, responses: Sequence[EngineResponse], send: Send) -> None:
        """Chunks read, translated and sent as one stream with one id."""
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        try:
            async for chunk in self._translated(responses):
                self._timer.first_byte()
                await send({"type": "http.response.body", "body": event(chunk), "more_body": True})
            last = DONE_EVENT
        except (UpstreamError, ValueError, Problem) as error:
            log.warning("stream broke", engine=self._engine.kind, reason=str(error))
            last = self._broken_end()
        await send({"type": "http.response.body", "body": last})

    async def _translated(self, responses: Sequence[EngineResponse]) -> AsyncIterator[JsonObject]:
        plan = self._plan
        transforms = [plan.chunks(index) if plan.chunks else None for index in range(len(responses))]
        usages: list[Any] = [None] * len(responses)
        head: JsonObject = {}
        async for index, chunk in side_by_side([chunks_of(response) for response in responses]):
            usages[index] = usage_of(chunk) or usages[index]
            if not head:
                head = {key: chunk[key] for key in ("id", "created", "model") if key in chunk}
            if not chunk.get("choices"):
                continue
            transform = transforms[index]
            for translated in transform(chunk) if transform else [chunk]:
                numbered = translated if len(responses) == 1 else renumbered(translated, index)
                yield {**numbered, **head}
        self._timer.streamed(sum(usage.get("completion_tokens", 0) for usage in usages if usage))
        if plan.include_usage:
            kind = "text_completion" if plan.path == COMPLETIONS else "chat.completion.chunk"
            usage = add_usage(usages, plan.choices_each)
            yield {**head, "object": kind, "choices": [], "usage": usage}


async def chunks_of(response: EngineResponse) -> AsyncIterator[JsonObject]:
    """The decoded chunks of an engine's stream.

    Raises:
        EngineFailed: it ended before its end, or says so itself.
    """
    reader = EventReader()
    while piece := await response.read():
        for data in reader.feed(piece):
            if data == DONE:
                return
            chunk: JsonObject = orjson.loads(data)
            if "error" in chunk:
                raise EngineFailed(BROKE_OFF)
            yield chunk
    raise EngineFailed(BROKE_OFF)


async def side_by_side(streams: Sequence[AsyncIterator[JsonObject]]) -> AsyncIterator[tuple[int, JsonObject]]:
    """Items of several streams as they come, each with the index of its stream."""
    if len(streams) == 1:
        async for item in streams[0]:
            yield 0, item
        return
    queue: asyncio.Queue[tuple[int, JsonObject | BaseException | None]] = asyncio.Queue(maxsize=64)

    async def pump(index: int, stream: AsyncIterator[JsonObject]) -> None:
        try:
            async for item in stream:
                await queue.put((index, item))
            await queue.put((index, None))
        except Exception as error:
            await queue.put((index, error))

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            index, arrived = await queue.get()
            if isinstance(arrived, BaseException):
                raise arrived
            if arrived is None:
                running -= 1
            else:
                yield index, arrived
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def while_connected(receive: Receive, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` unless the client goes away; then cancel it."""
    working = asyncio.ensure_future(work())
    listening = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            log.info("client went away")
            return
        await working
    finally:
        for task in (working, listening):
            task.cancel()
        await asyncio.gather(working, listening, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_json(send: Send, body: bytes) -> None:
    """A whole JSON answer."""
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def engine_down(error: EngineUnavailable) -> Problem:
    """The problem for an engine that takes no request."""
    return EngineDown(f"The model is not available now: {error.reason}.", retry_after=error.retry_after)


def upstream_problem(error: UpstreamError, retry_after: float) -> Problem:
    """The problem for an engine that could not be reached or broke off before it answered."""
    if isinstance(error, FirstByteTimeout | ReadTimeout | DeadlineReached):
        return DeadlineExceeded(f"The model did not answer in time: {error}.")
    if isinstance(error, NotSent):
        return EngineDown("The model cannot be reached now.", retry_after=error.retry_after or retry_after)
    return EngineDown("The model went away while it worked on the answer.", retry_after=retry_after)
