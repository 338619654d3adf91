# Generated from latticework/_async/resources/chat.py by sdk/generate.py; do not edit.
"""Chat, thinly: one question or a conversation, whole or as a stream."""

from __future__ import annotations

from typing import Any

from latticework._calls import post
from latticework._chat import ChatChunk, ChatReply, Messages, chat_body
from latticework._events import chunks
from latticework._sync._streaming import Stream
from latticework._sync.resources._resource import Resource

PATH = "/v1/chat/completions"


class Chat(Resource):
    """`client.chat`."""

    def complete(
        self, messages: Messages, *, model: str = "default", system: str | None = None, **options: Any
    ) -> ChatReply:
        """The whole answer. `options` are OpenAI's: `temperature`, `max_tokens`, `tools`, ..."""
        return self._client.fetch(post(PATH, chat_body(messages, model, system, options)), ChatReply)

    def stream(
        self, messages: Messages, *, model: str = "default", system: str | None = None, **options: Any
    ) -> Stream[ChatChunk]:
        """The answer as it is written; the last piece carries the usage."""
        options = {"stream_options": {"include_usage": True}, **options, "stream": True}
        body = chat_body(messages, model, system, options)
        return Stream(self._client, post(PATH, body), chunks(ChatChunk))
