"""The provider-neutral chat interface of the pipeline, with recording and replay.

A recorded conversation is JSON Lines: one object per call with the request's key, its role and
model, and the reply. A replay needs no model and no network; a request that was never recorded
raises `ReplyMissingError`. Identical requests are answered in the order they were recorded.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from services.text2sql.pisql.configuration import Role
from services.text2sql.pisql.errors import ReplyMissingError


@dataclass(frozen=True, slots=True)
class Message:
    """One message; `role` is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One call. `grammar` is a GBNF text for engines that can hold their output to it.

    `tags` tell doubles and traces what the call is about; they are no part of the request's key.
    """

    role: Role
    model: str
    messages: tuple[Message, ...]
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 1_500
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def key(self) -> str:
        """A stable digest of everything that shapes the reply."""
        body = [
            self.role,
            self.model,
            [[message.role, message.content] for message in self.messages],
            self.temperature,
            self.seed,
            self.max_tokens,
            list(self.stop),
            self.grammar,
        ]
        return hashlib.sha256(json.dumps(body, ensure_ascii=True).encode()).hexdigest()[:32]

    def tag(self, name: str) -> str:
        """The value of a tag, empty when absent."""
        return dict(self.tags).get(name, "")


@dataclass(frozen=True, slots=True)
class ChatReply:
    """A reply; token counts are 0 when the provider gives none. `seconds` is the call's duration."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"
    seconds: float = 0.0


class ChatModel(Protocol):
    """Whatever answers chat requests. Raises `ModelUnavailableError` when it cannot."""

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The reply to one request."""
        ...


class Recording:
    """Recorded replies by request key."""

    def __init__(self, records: Iterable[dict[str, Any]] = ()) -> None:
        self._records: list[dict[str, Any]] = []
        self._by_key: dict[str, list[ChatReply]] = defaultdict(list)
        for record in records:
            self._store(record)

    def _store(self, record: dict[str, Any]) -> None:
        self._records.append(record)
        self._by_key[record["key"]].append(ChatReply(**record["reply"]))

    def add(self, request: ChatRequest, reply: ChatReply) -> dict[str, Any]:
        """Append one call; returns the record as it is written."""
        record = {
            "key": request.key,
            "role": request.role.value,
            "model": request.model,
            "reply": {
                "text": reply.text,
                "prompt_tokens": reply.prompt_tokens,
                "completion_tokens": reply.completion_tokens,
                "finish_reason": reply.finish_reason,
                "seconds": reply.seconds,
            },
        }
        self._store(record)
        return record

    def replies(self, key: str) -> list[ChatReply]:
        """Every reply recorded under a key, oldest first."""
        return self._by_key.get(key, [])

    def __len__(self) -> int:
        return len(self._records)

    def lines(self) -> Iterator[str]:
        """The recording as JSON Lines."""
        for record in self._records:
            yield json.dumps(record, ensure_ascii=False, sort_keys=True)

    def save(self, path: Path) -> None:
        """Write the recording as a JSON Lines file."""
        path.write_text("".join(line + "\n" for line in self.lines()), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a JSON Lines file; a last line cut short by a crash is dropped."""
        records = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return cls(records)


class RecordingChat:
    """Answers from a recording when it can, else asks the model and records the reply.

    With `path`, every new reply is appended at once, so an interrupted run can be resumed.
    """

    def __init__(
        self, inner: ChatModel, recording: Recording | None = None, path: Path | None = None
    ) -> None:
        self._inner = inner
        self.recording = recording if recording is not None else Recording()
        self._replay = ReplayingChat(self.recording)
        self._path = path

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The recorded reply, or a fresh one."""
        try:
            return await self._replay.complete(request)
        except ReplyMissingError:
            reply = await self._inner.complete(request)
        record = self.recording.add(request, reply)
        self._replay.used(request)
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n")
        return reply


class ReplayingChat:
    """Answers from a recording only."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._next: dict[str, int] = defaultdict(int)

    def used(self, request: ChatRequest) -> None:
        """Count a reply to `request` as given."""
        self._next[request.key] += 1

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The next recorded reply; raises `ReplyMissingError` when there is none left."""
        replies = self._recording.replies(request.key)
        position = self._next[request.key]
        if position >= len(replies):
            raise ReplyMissingError(
                f"no recorded reply for {request.role} request {request.key} (call {position + 1})"
            )
        self.used(request)
        return replies[position]
