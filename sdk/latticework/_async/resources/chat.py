"""Chat, thinly: one question or a conversation, whole or as a stream."""

from __future__ import annotations

from typing import Any

from latticework._async._streaming import AsyncStream
from latticework._async.resources._resource import AsyncResource
from latticework._calls import post
from latticework._chat import ChatChunk, ChatReply, Messages, chat_body
from latticework._events import chunks

PATH = "/v1/chat/completions"


class AsyncChat(AsyncResource):
    """`client.chat`."""

    async def complete(
        self, messages: Messages, *, model: str = "default", system: str | None = None, **options: Any
    ) -> ChatReply:
        """The whole answer. `options` are OpenAI's: `temperature`, `max_tokens`, `tools`, ..."""
        return await self._client.fetch(post(PATH, chat_body(messages, model, system, options)), ChatReply)

    def stream(
        self, messages: Messages, *, model: str = "default", system: str | None = None, **options: Any
    ) -> AsyncStream[ChatChunk]:
        """The answer as it is written; the last piece carries the usage."""
        options = {"stream_options": {"include_usage": True}, **options, "stream": True}
        body = chat_body(messages, model, system, options)
        return AsyncStream(self._client, post(PATH, body), chunks(ChatChunk))
