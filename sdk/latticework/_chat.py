"""Answers of chat models, as thin as a conversation needs; `client.openai` has every detail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

Messages = str | Sequence[Mapping[str, Any]]
"""A question, or a whole conversation as OpenAI's list of messages."""


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())


class ChatUsage(_Lenient):
    """Tokens of one call."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class ChatMessage(_Lenient):
    """What the model said, or a piece of it."""

    role: str | None = None
    content: str | None = None


class ChatChoice(_Lenient):
    """One of the answers, whole (`message`) or in pieces (`delta`)."""

    index: int = 0
    message: ChatMessage = ChatMessage()
    delta: ChatMessage = ChatMessage()
    finish_reason: str | None = None


class _Answer(_Lenient):
    id: str = ""
    model: str = ""
    choices: list[ChatChoice] = []
    usage: ChatUsage | None = None

    @property
    def finish_reason(self) -> str | None:
        """Why the first answer ended: `stop`, `length`, `tool_calls`, ..."""
        return self.choices[0].finish_reason if self.choices else None


class ChatReply(_Answer):
    """A whole answer."""

    @property
    def text(self) -> str:
        """The first answer as text."""
        return (self.choices[0].message.content or "") if self.choices else ""


class ChatChunk(_Answer):
    """A piece of an answer."""

    @property
    def text(self) -> str:
        """What this piece adds to the first answer."""
        return (self.choices[0].delta.content or "") if self.choices else ""


def chat_body(
    messages: Messages, model: str, system: str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """The JSON of a chat call."""
    conversation: list[Mapping[str, Any]] = (
        [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    )
    if system is not None:
        conversation.insert(0, {"role": "system", "content": system})
    return {"model": model, "messages": conversation, **options}
