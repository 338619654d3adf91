"""The pipeline's chat port over the gateway: every token is metered there for the asking principal."""

from __future__ import annotations

import time
from typing import Any

import httpx

from services.text2sql.pisql.chat import ChatReply, ChatRequest
from services.text2sql.pisql.errors import ModelUnavailableError
from shared.llm import gateway_chat
from shared.principal import Principal, PrincipalSigner
from shared.problems import Problem


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
        options: dict[str, Any] = {
            "temperature": request.temperature,
            "seed": request.seed,
            "max_tokens": request.max_tokens,
        }
        if request.stop:
            options["stop"] = list(request.stop)
        if request.grammar:
            options["grammar"] = request.grammar
        messages = [{"role": item.role, "content": item.content} for item in request.messages]
        started = time.perf_counter()
        try:
            client = gateway_chat(
                self._gateway_url,
                self._signer,
                self._principal,
                model=request.model,
                client=self._client,
            )
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
