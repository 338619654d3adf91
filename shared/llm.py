"""Chat with a model through the gateway: structured output, retries, budgets, usage, record and replay.

Every token a service spends goes through the gateway's `/v1/chat/completions` with the principal's
own token, so it is metered and meets the principal's budget there. What this module adds is a local
budget per piece of work, so that a loop ends before it drains the key.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import orjson
import stamina
from pydantic import BaseModel, ValidationError

from shared.principal import Principal, PrincipalSigner
from shared.problems import BadGateway, BudgetExceeded, Problem, from_status

CHAT_PATH = "/v1/chat/completions"
RETRIED_STATUS = frozenset({408, 429, 502, 503, 504})

Message = Mapping[str, Any]
Structured = TypeVar("Structured", bound=BaseModel)
TokenSource = Callable[[], str]


class ModelOutputInvalid(Problem):
    status, code, title = 502, "llm_bad_output", "The model's reply does not have the asked form"


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more calls."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.calls + other.calls,
        )


@dataclass(frozen=True, slots=True)
class ChatReply:
    """One reply; `raw` is the whole answer as the server gave it."""

    text: str
    finish_reason: str | None
    usage: Usage
    tool_calls: Sequence[Mapping[str, Any]] = ()
    raw: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(slots=True)
class CallBudget:
    """What one piece of work may spend; checked before every call, counted after it."""

    calls: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    spent: Usage = Usage()

    def check(self) -> None:
        """Raises BudgetExceeded when nothing is left."""
        for name in ("calls", "prompt_tokens", "completion_tokens"):
            limit = getattr(self, name)
            if limit is not None and getattr(self.spent, name) >= limit:
                raise BudgetExceeded(
                    f"This piece of work may use {limit} {name}, and has.", code="budget_exhausted"
                )


class ChatTransport(Protocol):
    """Carries one request body to a model and its answer back."""

    async def send(self, body: Mapping[str, Any]) -> Mapping[str, Any]: ...

    def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]: ...


class GatewayTransport:
    """Through the gateway over HTTP, with retries on what may be repeated.

    Raises from `send` and `stream`: the Problem the gateway answered with, or BadGateway when it cannot
    be reached or breaks off.
    """

    def __init__(
        self,
        gateway_url: str,
        token: TokenSource,
        *,
        timeout: float = 300.0,
        attempts: int = 4,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._url = gateway_url.rstrip("/") + CHAT_PATH
        self._token = token
        self._attempts = attempts
        self._owned = client is None
        self._client = client or httpx.AsyncClient(timeout=httpx.Timeout(timeout, connect=5.0))

    async def send(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        try:
            async for attempt in stamina.retry_context(on=_worth_retrying, attempts=self._attempts):
                with attempt:
                    response = await self._client.post(self._url, json=dict(body), headers=self._headers())
                    _raise_for_status(response.status_code, response.content, response.headers)
        except httpx.HTTPError as error:
            raise BadGateway(f"The gateway did not answer: {type(error).__name__}.") from error
        answer: Mapping[str, Any] = orjson.loads(response.content)
        return answer

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        try:
            async for event in self._events({**body, "stream": True}):
                yield event
        except httpx.HTTPError as error:
            raise BadGateway(f"The stream broke: {type(error).__name__}.") from error

    async def _events(self, payload: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        async with self._client.stream("POST", self._url, json=payload, headers=self._headers()) as response:
            if response.status_code != 200:
                _raise_for_status(response.status_code, await response.aread(), response.headers)
            async for line in response.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    return
                event: Mapping[str, Any] = orjson.loads(data)
                if "error" in event:
                    raise BadGateway(str(event["error"].get("message", "the stream broke")))
                yield event
        raise BadGateway("The stream ended before it was complete.")

    async def close(self) -> None:
        """Close the connections, if they are ours."""
        if self._owned:
            await self._client.aclose()

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token()}"}


def _worth_retrying(error: Exception) -> bool | float:
    if isinstance(error, Problem):
        if error.status not in RETRIED_STATUS:
            return False
        wait = error.headers.get("Retry-After", "")
        return min(float(wait), 30.0) if wait.isdigit() else True
    return isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)


def _raise_for_status(status: int, content: bytes, headers: Mapping[str, str]) -> None:
    if status < 400:
        return
    try:
        error = orjson.loads(content)["error"]
        detail, code = str(error["message"]), error.get("code")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        detail, code = content[:200].decode(errors="replace"), None
    kept = {"Retry-After": headers["retry-after"]} if "retry-after" in headers else None
    problem = from_status(status, detail, kept)
    if code:
        problem.instance_code = str(code)
    raise problem


class RecordingTransport:
    """Sends through `inner` and appends each exchange to a JSON-lines file."""

    def __init__(self, inner: ChatTransport, path: Path) -> None:
        self._inner, self._path = inner, path
        path.parent.mkdir(parents=True, exist_ok=True)

    async def send(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = await self._inner.send(body)
        self._write({"key": request_key(body), "request": dict(body), "answer": dict(answer)})
        return answer

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        events = []
        async for event in self._inner.stream(body):
            events.append(dict(event))
            yield event
        self._write({"key": request_key(body), "request": dict(body), "events": events})

    def _write(self, record: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as sink:
            sink.write(json.dumps(record, ensure_ascii=False) + "\n")


class ReplayTransport:
    """Answers from a recording; the same request asked again gets the recorded answers in order.

    Raises from `send` and `stream`: LookupError when the recording lacks the request.
    """

    def __init__(self, path: Path) -> None:
        self._records: defaultdict[str, deque[dict[str, Any]]] = defaultdict(deque)
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            self._records[record["key"]].append(record)

    async def send(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = self._next(body)["answer"]
        return answer

    async def stream(self, body: Mapping[str, Any]) -> AsyncIterator[Mapping[str, Any]]:
        for event in self._next(body)["events"]:
            yield event

    def _next(self, body: Mapping[str, Any]) -> dict[str, Any]:
        waiting = self._records.get(request_key(body))
        if not waiting:
            raise LookupError("the recording has no (further) answer to this request")
        return waiting.popleft()


def request_key(body: Mapping[str, Any]) -> str:
    """The hash by which a recording finds a request: its content, whatever the order of its fields."""
    return hashlib.sha256(orjson.dumps(dict(body), option=orjson.OPT_SORT_KEYS)).hexdigest()


class ChatClient:
    """What handlers and services hold: messages in, replies out, spending counted in `budget`."""

    def __init__(
        self, transport: ChatTransport, *, model: str = "default", budget: CallBudget | None = None
    ) -> None:
        self.transport = transport
        self.model = model
        self.budget = budget or CallBudget()

    async def chat(self, messages: Sequence[Message], **options: Any) -> ChatReply:
        """One reply. `options` are fields of the chat-completions request (temperature, seed, stop ...).

        Raises:
            BudgetExceeded: the local budget or the key's is spent.
            Problem: what the gateway answered.
        """
        self.budget.check()
        answer = await self.transport.send(self._body(messages, options))
        reply = parse_reply(answer)
        self.budget.spent += reply.usage
        return reply

    async def stream(self, messages: Sequence[Message], **options: Any) -> AsyncIterator[str]:
        """The pieces of one reply's text as they come."""
        self.budget.check()
        options["stream_options"] = {"include_usage": True}
        async for event in self.transport.stream(self._body(messages, options)):
            if event.get("usage"):
                self.budget.spent += _usage(event["usage"])
            for choice in event.get("choices", ()):
                if piece := choice.get("delta", {}).get("content"):
                    yield piece

    async def structured(
        self, messages: Sequence[Message], form: type[Structured], **options: Any
    ) -> Structured:
        """A reply in the form of a pydantic model; the server constrains it, a second try mends the rest.

        Raises:
            ModelOutputInvalid: two replies did not have the form.
        """
        options["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": form.__name__, "schema": form.model_json_schema(), "strict": True},
        }
        conversation = list(messages)
        for _ in range(2):
            reply = await self.chat(conversation, **options)
            try:
                return form.model_validate_json(reply.text)
            except ValidationError as error:
                reason = "; ".join(item["msg"] for item in error.errors(include_input=False)[:3])
                conversation += [
                    {"role": "assistant", "content": reply.text},
                    {
                        "role": "user",
                        "content": f"That was not valid: {reason}. Answer again, only the JSON.",
                    },
                ]
        raise ModelOutputInvalid(f"Two replies did not have the form {form.__name__}: {reason}.")

    def _body(self, messages: Sequence[Message], options: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "messages": [dict(message) for message in messages], **options}


def parse_reply(answer: Mapping[str, Any]) -> ChatReply:
    """The first choice of a chat completion.

    Raises:
        ModelOutputInvalid: the answer is no chat completion.
    """
    try:
        choice = answer["choices"][0]
        message = choice["message"]
    except (KeyError, IndexError, TypeError):
        raise ModelOutputInvalid("The answer is not a chat completion.") from None
    return ChatReply(
        text=message.get("content") or "",
        finish_reason=choice.get("finish_reason"),
        usage=_usage(answer.get("usage") or {}),
        tool_calls=tuple(message.get("tool_calls") or ()),
        raw=answer,
    )


def _usage(usage: Mapping[str, Any]) -> Usage:
    return Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0), 1)


def gateway_chat(
    gateway_url: str,
    signer: PrincipalSigner,
    principal: Principal,
    *,
    model: str = "default",
    budget: CallBudget | None = None,
    client: httpx.AsyncClient | None = None,
) -> ChatClient:
    """A chat client that spends on behalf of `principal`; tokens are minted afresh for each call."""

    def token() -> str:
        return signer.sign(principal, audience="gateway")

    return ChatClient(GatewayTransport(gateway_url, token, client=client), model=model, budget=budget)
