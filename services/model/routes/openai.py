"""OpenAI's paths: chat and text completions, embeddings, models."""

from __future__ import annotations

import base64
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.model.encoder.vectors import TooLong, shorten
from services.model.engines.base import Embedder, Embeddings, EngineUnavailable, ProxiedEngine
from services.model.engines.manager import Target
from services.model.protocol.failures import (
    ContextLengthExceeded,
    ModelNotFound,
    UnsupportedParameter,
    refused,
)
from services.model.protocol.plan import EMBEDDINGS, Plan, plan_chat, plan_completion
from services.model.protocol.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from services.model.routes.relay import Relay, engine_down, send_json, while_connected
from services.model.schemas import ModelList, ModelObject
from services.model.service import ModelService, service_of
from shared.principal import Principal, requires
from shared.problems import BadRequest

router = APIRouter(tags=["model"])

Service = Annotated[ModelService, Depends(service_of)]
Caller = Annotated[Principal, Depends(requires("model"))]


class ErrorObject(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Every error on OpenAI's paths."""

    error: ErrorObject


_STATUS_TEXTS = {
    400: "The request cannot be served as it is",
    401: "No valid credentials",
    402: "The budget does not cover this call",
    403: "The credentials do not allow this",
    404: "There is no such model",
    413: "The body is too large",
    422: "The request is not valid",
    429: "Too many requests",
    500: "Something went wrong on our side",
    502: "The engine broke off",
    503: "The model is not available now; Retry-After says when to ask again",
    504: "The model did not answer in time",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _STATUS_TEXTS.items()
}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "OpenAI's completion object, or its chunks as server-sent events",
        "content": {
            "application/json": {"schema": {"type": "object"}},
            "text/event-stream": {},
        },
    }
}


@router.post("/v1/chat/completions", responses={**ERRORS, **_ANSWER}, response_class=Response, summary="Chat")
async def chat(body: ChatRequest, request: Request, service: Service, caller: Caller) -> Response:
    """OpenAI's chat completions: streams, tools, JSON schemas, log probabilities, several choices."""
    target = find(service, body.model, caller)
    engine = proxied(target, body.model, "chat")
    plan = plan_chat(body, await request.body(), target.model, engine.capabilities)
    return Relay(engine, plan, service.metrics.timer("chat", target.model))


@router.post(
    "/v1/completions", responses={**ERRORS, **_ANSWER}, response_class=Response, summary="Complete text"
)
async def complete(body: CompletionRequest, request: Request, service: Service, caller: Caller) -> Response:
    """OpenAI's text completions: one prompt or several, as text or token ids."""
    target = find(service, body.model, caller)
    engine = proxied(target, body.model, "complete text")
    plan = plan_completion(body, await request.body(), target.model, engine.capabilities)
    return Relay(engine, plan, service.metrics.timer("text_completion", target.model))


@router.post(
    "/v1/embeddings",
    responses={
        **ERRORS,
        200: {
            "description": "OpenAI's list of embeddings",
            "content": {"application/json": {"schema": {"type": "object"}}},
        },
    },
    response_class=Response,
    summary="Embed texts",
)
async def embed(body: EmbeddingRequest, request: Request, service: Service, caller: Caller) -> Response:
    """OpenAI's embeddings: unit vectors of texts, as numbers or as base64 of little-endian floats."""
    target = find(service, body.model, caller)
    engine = target.managed.engine
    if not engine.capabilities.embeddings:
        raise refused(UnsupportedParameter, "model", f"The model `{body.model}` cannot embed.")
    timer = service.metrics.timer("embeddings", target.model)
    if isinstance(engine, ProxiedEngine):
        document = orjson.loads(await request.body()) | {"model": target.model}
        plan = Plan(EMBEDDINGS, [orjson.dumps(document)], stream=False, include_usage=False)
        return Relay(engine, plan, timer)
    dimensions = engine.capabilities.dimensions
    if body.dimensions is not None and dimensions is not None and body.dimensions > dimensions:
        message = f"The model `{body.model}` has {dimensions} dimensions."
        raise refused(UnsupportedParameter, "dimensions", message)
    return _LocalEmbeddings(target, body, timer)


class _LocalEmbeddings(Response):
    """Embeds in this process; a client that goes away stops the work at the next batch."""

    def __init__(self, target: Target, body: EmbeddingRequest, timer: Any) -> None:
        super().__init__()
        self._target, self._body, self._timer = target, body, timer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, lambda: self._answer(send))

    async def _answer(self, send: Send) -> None:
        engine = self._target.managed.engine
        assert isinstance(engine, Embedder)
        with self._timer:
            try:
                with engine.lease():
                    embeddings = await engine.embed(self._body.inputs())
            except EngineUnavailable as error:
                raise engine_down(error) from None
            except TooLong as error:
                message = f"This model's maximum context length is {error.limit} tokens: {error}."
                raise refused(ContextLengthExceeded, "input", message) from None
            except ValueError as error:
                raise refused(BadRequest, "input", f"{error}.") from None
            await send_json(send, embedding_list(embeddings, self._body, self._target.model))


def embedding_list(embeddings: Embeddings, body: EmbeddingRequest, model: str) -> bytes:
    """OpenAI's answer to an embedding request."""
    vectors = embeddings.vectors
    if body.dimensions is not None and body.dimensions < vectors.shape[1]:
        vectors = shorten(vectors, body.dimensions)
    if body.encoding_format == "base64":
        coded: list[Any] = [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors]
    else:
        coded = list(vectors)
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(coded)
            ],
            "model": model,
            "usage": {"prompt_tokens": embeddings.tokens, "total_tokens": embeddings.tokens},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )


@router.get("/v1/models", responses=ERRORS, summary="List models")
async def list_models(service: Service, caller: Caller) -> ModelList:
    """Every name that can be asked for: aliases first, then the engines' own names."""
    names = service.manager.model_names(caller.tenant)
    return ModelList(
        data=[
            ModelObject(id=name, created=int(managed.created_at.timestamp()), owned_by=managed.spec.kind)
            for name, managed in names
        ]
    )


@router.get("/v1/models/{model:path}", responses=ERRORS, summary="Get a model")
async def get_model(
    model: Annotated[str, Path(max_length=256)], service: Service, caller: Caller
) -> ModelObject:
    """One model, by alias or by name."""
    managed = find(service, model, caller).managed
    return ModelObject(id=model, created=int(managed.created_at.timestamp()), owned_by=managed.spec.kind)


def find(service: ModelService, model: str, caller: Principal) -> Target:
    """Where the name leads for this caller."""
    target = service.manager.resolve(model, caller.tenant)
    if target is None:
        raise ModelNotFound(model)
    return target


def proxied(target: Target, model: str, what: str) -> ProxiedEngine:
    """The engine, if it takes requests of OpenAI's protocol."""
    engine = target.managed.engine
    if not isinstance(engine, ProxiedEngine):
        raise refused(UnsupportedParameter, "model", f"The model `{model}` cannot {what}.")
    return engine
