"""What every stage is handed besides its inputs: configuration, ports, budget, and where to report.

The context is the only mutable thing of a question: it counts, records and emits; it decides nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from services.text2sql.pisql import prompts
from services.text2sql.pisql.budget import BudgetMeter
from services.text2sql.pisql.chat import ChatReply, ChatRequest, Message
from services.text2sql.pisql.configuration import Configuration, ModelProfile, Role, Share
from services.text2sql.pisql.errors import BadOutputError, ErrorCode, ModelUnavailableError
from services.text2sql.pisql.objects import CallRecord, Notice
from services.text2sql.pisql.ports import Event, Ports
from services.text2sql.pisql.schema_text import estimate_tokens

T = TypeVar("T")


@dataclass(slots=True)
class StageContext:
    """One question's working state."""

    configuration: Configuration
    ports: Ports
    meter: BudgetMeter
    question_id: str = ""
    calls: list[CallRecord] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    timings_ms: dict[str, float] = field(default_factory=dict)
    _under_way: int = 0
    _waiting_since: float = 0.0

    def notice(self, code: ErrorCode | str, message: str) -> None:
        """Remember something the reader of the answer should know; said once."""
        notice = Notice(str(code), message)
        if notice not in self.notices:
            self.notices.append(notice)

    def emit(self, stage: str, **data: object) -> None:
        """Show an event to whoever listens."""
        self.ports.emit(Event(stage, data))

    def profile(self, role: Role) -> ModelProfile:
        """The profile of the model a role uses."""
        return self.configuration.model_profile(role)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the wall time of a block to the stage's total."""
        started = time.perf_counter()
        try:
            yield
        finally:
            spent = (time.perf_counter() - started) * 1_000
            self.timings_ms[stage] = self.timings_ms.get(stage, 0.0) + spent

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Add to `model` the wall time in which a model call is under way; calls made together count once."""
        if self._under_way == 0:
            self._waiting_since = time.perf_counter()
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1
            if self._under_way == 0:
                spent = (time.perf_counter() - self._waiting_since) * 1_000
                self.timings_ms["model"] = self.timings_ms.get("model", 0.0) + spent

    async def ask(
        self,
        share: Share,
        role: Role,
        messages: tuple[Message, ...],
        read: Callable[[str], T],
        *,
        temperature: float = 0.0,
        seed: int = 0,
        grammar: str | None = None,
        max_tokens: int = 0,
        tags: dict[str, str] | None = None,
    ) -> T | None:
        """Ask a role's model and read the reply; None when budget, model or format fail.

        A reply that breaks its format costs one retry, from the repairs' share, that quotes only the
        format error.
        """
        profile = self.profile(role)
        request = ChatRequest(
            role=role,
            model=self.configuration.alias(role),
            messages=messages,
            temperature=temperature,
            seed=self.configuration.seed + seed,
            max_tokens=max_tokens or profile.completion_tokens,
            grammar=grammar if profile.grammar else None,
            tags=tuple({"question": self.question_id, **(tags or {})}.items()),
        )
        reply = await self._complete(share, request)
        if reply is None:
            return None
        try:
            return read(reply.text)
        except BadOutputError as error:
            format_error = str(error)
        repeated = ChatRequest(
            role=role,
            model=request.model,
            messages=prompts.retry(messages, reply.text, format_error),
            temperature=temperature,
            seed=request.seed,
            max_tokens=request.max_tokens,
            grammar=request.grammar,
            tags=(*request.tags, ("retry", "1")),
        )
        reply = await self._complete(Share.REPAIRS, repeated)
        if reply is None:
            return None
        try:
            return read(reply.text)
        except BadOutputError as error:
            self.notice(ErrorCode.LLM_BAD_OUTPUT, f"{role.value}: {error}")
            return None

    async def _complete(self, share: Share, request: ChatRequest) -> ChatReply | None:
        if not self.meter.take_call(share):
            return None
        try:
            with self._waiting():
                reply = await self.ports.chat.complete(request)
        except ModelUnavailableError as error:
            self.calls.append(CallRecord(request.role, request.model, request.key, 0, 0, 0.0, False))
            self.notice(error.code, str(error) or "the model could not be reached")
            return None
        ratio = self.profile(request.role).characters_per_token
        prompt_tokens = reply.prompt_tokens or sum(
            estimate_tokens(message.content, ratio) for message in request.messages
        )
        completion_tokens = reply.completion_tokens or estimate_tokens(reply.text, ratio)
        self.meter.record_tokens(prompt_tokens, completion_tokens)
        self.calls.append(
            CallRecord(
                request.role.value,
                request.model,
                request.key,
                prompt_tokens,
                completion_tokens,
                reply.seconds,
            )
        )
        return reply
