"""`client.openai` is the stock client, ready: same address, same key, same connections."""

from __future__ import annotations

import json

import openai
import pytest
from starlette.responses import JSONResponse

from latticework import AsyncClient, Client
from tests.integration.sdk.conftest import KEY
from tests.integration.sdk.server import ScriptedServer
from tests.integration.sdk.test_cli import ANSWER
from tests.integration.sdk.test_streaming import events

COMPLETION = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "tiny",
    "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Hello."}},
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}
QUESTION = "Hi?"


def test_chat_through_the_stock_client(server: ScriptedServer, client: Client) -> None:
    server.answer("POST", "/v1/chat/completions", JSONResponse(COMPLETION))
    reply = client.openai.chat.completions.create(
        model="default", messages=[{"role": "user", "content": QUESTION}]
    )
    assert reply.choices[0].message.content == "Hello."
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert client.openai is client.openai


def test_stream_through_the_stock_client(server: ScriptedServer, client: Client) -> None:
    server.answer("POST", "/v1/chat/completions", events(*ANSWER))
    stream = client.openai.chat.completions.create(
        model="default", messages=[{"role": "user", "content": QUESTION}], stream=True
    )
    words = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(words) == "Hello there.\n"


async def test_async_stock_client(server: ScriptedServer, async_client: AsyncClient) -> None:
    server.answer("POST", "/v1/chat/completions", JSONResponse(COMPLETION))
    reply = await async_client.openai.chat.completions.create(
        model="default", messages=[{"role": "user", "content": QUESTION}]
    )
    assert reply.choices[0].message.content == "Hello."


def test_errors_are_the_stock_ones(server: ScriptedServer, client: Client) -> None:
    body = {"error": {"message": "no", "type": "authentication_error", "code": "unauthorized", "param": None}}
    server.answer("GET", "/v1/models", JSONResponse(body, status_code=401))
    with pytest.raises(openai.AuthenticationError):
        client.openai.models.list()


def test_own_chat_is_thin(server: ScriptedServer, client: Client) -> None:
    server.answer("POST", "/v1/chat/completions", JSONResponse(COMPLETION))
    reply = client.chat.complete(QUESTION, system="be brief", max_tokens=5, seed=None)
    assert (reply.text, reply.finish_reason, reply.model) == ("Hello.", "stop", "tiny")
    assert json.loads(server.bodies[0]) == {
        "model": "default",
        "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": QUESTION}],
        "max_tokens": 5,
    }
    server.answer("POST", "/v1/chat/completions", events(*ANSWER))
    chunks = list(client.chat.stream([{"role": "user", "content": QUESTION}]))
    assert "".join(chunk.text for chunk in chunks) == "Hello there.\n"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 2
