"""The route that asks a model: through the gateway, on the caller's budget, phase by phase."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from services.vision.answers import image_body, json_answer, wanted_format
from services.vision.asking import WorkerCamera, run_look
from services.vision.imaging import read_header
from services.vision.intake import read_image_request
from services.vision.problems import ModelNotConfigured
from services.vision.routes.common import IMAGE_PROBLEMS, PREFIX, engine_of, settings_of
from services.vision.schemas import AskBody, AskOptions, JsonObject
from services.vision.settings import VisionSettings
from shared.llm import CallBudget, ChatClient, gateway_chat
from shared.principal import Principal, requires
from shared.problems import BadGateway, BudgetExceeded, InternalError, Problem, responses
from shared.telemetry import logger

router = APIRouter(prefix=PREFIX, tags=["vision"])
log = logger(__name__)
EVENT_STREAM = "text/event-stream"
KEEP_ALIVE_SECONDS = 15.0
Events = AsyncIterator[tuple[str, dict[str, Any]]]
Caller = Annotated[Principal, Depends(requires("vision"))]


class AskAnswer(BaseModel):
    """The answer and how it was reached. `point` is on the stored image, `box` on the upright one."""

    answer: str | None
    reply: str
    path: list[dict[str, float]]
    point: dict[str, float] | None
    box: tuple[int, int, int, int] | None
    model: str
    usage: dict[str, int]
    phases: list[JsonObject]


def _chat(request: Request, principal: Principal, options: AskOptions) -> ChatClient:
    """A client that spends on behalf of the caller. Raises ModelNotConfigured."""
    settings: VisionSettings = settings_of(request)
    model = options.model or settings.vision_model
    if model is None:
        raise ModelNotConfigured(
            "No model that takes images is configured: set LATTICEWORK_VISION_MODEL to the name of one at"
            " the gateway, or name one in options.model. All other routes work without."
        )
    budget = CallBudget(calls=options.max_calls, completion_tokens=options.max_completion_tokens)
    return gateway_chat(
        settings.gateway_url,
        request.app.state.signer,
        principal,
        model=model,
        budget=budget,
        client=request.app.state.http,
    )


def _explained(problem: Problem, options: AskOptions, model: str) -> Problem:
    """A configured model that the gateway does not know is our gap, not the caller's."""
    if problem.status == 404 and options.model is None:
        return ModelNotConfigured(f"The configured model '{model}' is not known at the gateway.")
    return problem


@router.post(
    "/ask",
    summary="Ask a vision model about an image",
    response_model=AskAnswer,
    responses={
        **IMAGE_PROBLEMS,
        **responses(BudgetExceeded, ModelNotConfigured, BadGateway),
        200: {"content": {EVENT_STREAM: {}}},
    },
    openapi_extra=image_body(AskBody),
)
async def ask(request: Request, caller: Caller) -> Response:
    """Scaffold the image, ask, and look closer where the model points.

    With `stream: true` or `Accept: text/event-stream` the phases come as they run: events `phase`
    (started, finished), then `answer`, or `error` with a problem document.
    """
    asked = await read_image_request(request, AskOptions, settings_of(request))
    options = asked.options
    accept = request.headers.get("accept", "")
    streamed = options.stream or EVENT_STREAM in accept
    if not streamed:
        wanted_format(accept, "jpeg", images=False)
    chat = _chat(request, caller, options)
    settings = settings_of(request)
    header = read_header(asked.images[0])
    camera = WorkerCamera(
        engine=engine_of(request),
        image=asked.images[0],
        size=(header.width, header.height),
        limits=settings.limits(),
        options=options,
        model_side=options.model_side or settings.vision_model_side,
    )
    events = run_look(camera, chat, options)
    try:
        first = await anext(events)  # a bad image is still an error status here
        if streamed:
            return StreamingResponse(
                _stream(first, events, options, chat.model, request.url.path),
                media_type=EVENT_STREAM,
                headers={"Cache-Control": "no-store"},
            )
        phases, answer = [first], dict[str, Any]()
        async for name, data in events:
            if name == "answer":
                answer = data
            else:
                phases.append((name, data))
    except Problem as problem:
        raise _explained(problem, options, chat.model) from problem
    return await json_answer({**answer, "phases": [data for _, data in phases]})


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"


async def _stream(
    first: tuple[str, dict[str, Any]], events: Events, options: AskOptions, model: str, path: str
) -> AsyncIterator[bytes]:
    """Server-sent events with comments in between, so that nobody on the way gives up."""
    yield _event(*first)
    pending: asyncio.Future[tuple[str, dict[str, Any]]] | None = None
    try:
        while True:
            pending = pending or asyncio.ensure_future(anext(events))
            done, _ = await asyncio.wait([pending], timeout=KEEP_ALIVE_SECONDS)
            if not done:
                yield b": still looking\n\n"
                continue
            name, data = pending.result()
            pending = None
            yield _event(name, data)
    except StopAsyncIteration:
        return
    except Problem as problem:
        yield _event("error", _explained(problem, options, model).document(instance=path))
    except Exception:
        log.exception("look_failed")
        yield _event("error", InternalError().document(instance=path))
    finally:
        if pending is not None and not pending.done():
            pending.cancel()
            with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration, Problem):
                await pending
