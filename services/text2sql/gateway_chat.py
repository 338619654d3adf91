"""The pipeline's chat and similarity ports over the gateway, metered there for the asking principal."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import httpx

from services.text2sql.pisql.chat import ChatReply, ChatRequest
from services.text2sql.pisql.errors import ModelUnavailableError
from shared.llm import ChatClient, gateway_chat
from shared.principal import Principal, PrincipalSigner
from shared.problems import Problem

EMBEDDED_TOGETHER = 64
EMBEDDING_SECONDS = 30.0


class GatewayChat:
    """Answers chat requests through `/v1/chat/completions` with the principal's own token."""

    def __init__(
        self,
        gateway_url: str,
        signer: PrincipalSigner,
        principal: Principal,
        *,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._gateway_url = gateway_url
        self._signer = signer
        self._principal = principal
        self._client = client

    async def complete(self, request: ChatRequest) -> ChatReply:
        """One reply; a refusal of the gateway or the model raises `ModelUnavailableError`."""
        client = gateway_chat(
            self._gateway_url,
            self._signer,
            self._principal,
            model=request.model,
            client=self._client,
        )
        return await ask(client, request)


async def ask(client: ChatClient, request: ChatRequest) -> ChatReply:
    """One reply of any OpenAI-compatible endpoint; a refusal raises `ModelUnavailableError`."""
    options: dict[str, Any] = {
        "temperature": request.temperature,
        "max_tokens": request.max_tokens,
    }
    if request.temperature > 0:
        # A seed costs the engine its cache of prompts, and greedy decoding has no use for one.
        options["seed"] = request.seed
    if request.stop:
        options["stop"] = list(request.stop)
    if request.grammar:
        options["grammar"] = request.grammar
    messages = [{"role": item.role, "content": item.content} for item in request.messages]
    started = time.perf_counter()
    try:
        reply = await client.chat(messages, **options)
    except Problem as problem:
        raise ModelUnavailableError(f"the model refused: {problem.detail or problem.title}") from problem
    return ChatReply(
        text=reply.text,
        prompt_tokens=reply.usage.prompt_tokens,
        completion_tokens=reply.usage.completion_tokens,
        finish_reason=reply.finish_reason or "",
        seconds=time.perf_counter() - started,
    )


class GatewaySimilarity:
    """Compares texts by `/v1/embeddings` with the principal's own token."""

    def __init__(
        self,
        gateway_url: str,
        signer: PrincipalSigner,
        principal: Principal,
        *,
        model: str,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._url = f"{gateway_url.rstrip('/')}/v1/embeddings"
        self._signer = signer
        self._principal = principal
        self._model = model
        self._client = client

    async def compare(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        """Cosines of the pairs' embeddings; a refusal raises `ModelUnavailableError`."""
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        if self._client is not None:
            embedded = await self._embed(texts, self._client)
        else:
            async with httpx.AsyncClient(timeout=EMBEDDING_SECONDS) as client:
                embedded = await self._embed(texts, client)
        vectors = dict(zip(texts, embedded, strict=True))
        return [_cosine(vectors[first], vectors[second]) for first, second in pairs]

    async def _embed(self, texts: Sequence[str], client: httpx.AsyncClient) -> list[Sequence[float]]:
        found: list[Sequence[float]] = []
        for start in range(0, len(texts), EMBEDDED_TOGETHER):
            body = {"model": self._model, "input": list(texts[start : start + EMBEDDED_TOGETHER])}
            token = self._signer.sign(self._principal, audience="gateway")
            try:
                response = await client.post(
                    self._url, json=body, headers={"Authorization": f"Bearer {token}"}
                )
                response.raise_for_status()
                found += [item["embedding"] for item in response.json()["data"]]
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                raise ModelUnavailableError(f"embeddings: {type(error).__name__}") from error
        return found


def _cosine(first: Sequence[float], second: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(first, second, strict=True))
    norm = math.sqrt(sum(a * a for a in first) * sum(b * b for b in second))
    return product / norm if norm else 0.0
