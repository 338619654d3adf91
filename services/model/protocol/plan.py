"""From a client's request to calls of an engine.

Where the engine speaks OpenAI's protocol itself, the request goes on as it came, under the engine's
own name for the model. Otherwise this module makes up the difference: one call for each prompt and
choice, grammars for JSON schemas and tools, and the translations the answers will need.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from services.model.engines.base import Capabilities
from services.model.protocol import tools
from services.model.protocol.answers import (
    JsonObject,
    LegacyLogprobs,
    ToolCallChunks,
    with_tool_calls,
    without_alternatives,
)
from services.model.protocol.failures import InvalidSchema, UnsupportedParameter, refused
from services.model.protocol.grammar import check_grammar, schema_grammar
from services.model.protocol.nodes import SchemaNotSupported
from services.model.protocol.requests import ChatRequest, CompletionRequest
from services.model.protocol.schema import read_schema
from shared.app import validation_problem
from shared.problems import BadRequest

CHAT = "/chat/completions"
COMPLETIONS = "/completions"
EMBEDDINGS = "/embeddings"

#: A prompt's tokens are not known before the engine reads it; text has about three characters to one.
CHARACTERS_PER_TOKEN = 3
RESERVE_TOKENS = 64
LEAST_BUDGET = 64

ChunkTransform = Callable[[JsonObject], list[JsonObject]]
_SAMPLING = (
    "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repeat_penalty",
    "stop", "logit_bias", "ignore_eos",
)  # fmt: skip
Request = TypeVar("Request", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Plan:
    """Calls to make, and how their answers become one.

    `choices_each` calls in a row belong to one prompt. `chunks` makes, for the call with the given
    index, the translation of its stream; `whole` translates one whole answer. With neither, and one
    call, the engine's bytes are passed on as they come (`raw`).
    """

    path: str
    bodies: Sequence[bytes]
    stream: bool
    include_usage: bool
    choices_each: int = 1
    chunks: Callable[[int], ChunkTransform] | None = None
    whole: Callable[[JsonObject, int], JsonObject] | None = None

    @property
    def raw(self) -> bool:
        """Whether bytes are passed on unread."""
        return len(self.bodies) == 1 and self.chunks is None and self.whole is None


def parse(kind: type[Request], body: bytes) -> Request:
    """The request in `body`.

    Raises:
        BadRequest: naming every field that is wrong.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_input=False, include_url=False, include_context=False)
        fields = [{**detail, "loc": ("body", *detail["loc"])} for detail in details]
        raise validation_problem(fields, BadRequest) from None


def plan_chat(request: ChatRequest, body: bytes, model: str, capabilities: Capabilities) -> Plan:
    """Calls for a chat completion by the engine's model `model`.

    Raises:
        UnsupportedParameter, InvalidSchema: the engine cannot do what is asked.
    """
    if not capabilities.chat:
        raise refused(UnsupportedParameter, "model", f"The model `{request.model}` cannot chat.")
    if capabilities.native:
        return _passed_on(CHAT, request, body, model, capabilities)
    _refuse_unknown(request)
    functions, must = request.callable_tools()
    described = bool(functions)
    call = _sampling(request, request.token_limit)
    system = tools.instructions(functions, must=must) if described else None
    call["messages"] = _plain_messages(request, system)
    grammar = _chat_grammar(request, capabilities)
    if grammar is not None:
        call["grammar"] = grammar
    bare = bool(request.logprobs) and not request.top_logprobs
    if request.logprobs:
        # llama.cpp gives no log probabilities at all when no alternatives are asked for.
        call |= {"logprobs": True, "top_logprobs": request.top_logprobs or 1}

    def whole(answer: JsonObject, _index: int) -> JsonObject:
        answer = without_alternatives(answer) if bare else answer
        return with_tool_calls(answer) if described else answer

    def chunks(_index: int) -> ChunkTransform:
        calls = ToolCallChunks() if described else None

        def translate(chunk: JsonObject) -> list[JsonObject]:
            chunk = without_alternatives(chunk) if bare else chunk
            return calls(chunk) if calls is not None else [chunk]

        return translate

    translated = bare or described
    return _fan_out(
        CHAT, request, [call], chunks=chunks if translated else None, whole=whole if translated else None
    )


def plan_completion(request: CompletionRequest, body: bytes, model: str, capabilities: Capabilities) -> Plan:
    """Calls for a text completion; see `plan_chat`."""
    if not capabilities.completions:
        raise refused(UnsupportedParameter, "model", f"The model `{request.model}` cannot complete text.")
    if capabilities.native:
        return _passed_on(COMPLETIONS, request, body, model, capabilities)
    _refuse_unknown(request)
    if request.suffix:
        raise refused(UnsupportedParameter, "suffix", "This model cannot fill in before a suffix.")
    prompts = request.prompts()
    if request.echo and any(not isinstance(prompt, str) for prompt in prompts):
        raise refused(UnsupportedParameter, "echo", "echo needs prompts of text, not of token ids.")
    call = _sampling(request, request.max_tokens or 16)
    if request.logprobs is not None:
        call["logprobs"] = max(1, request.logprobs)
    grammar = _completion_grammar(request, capabilities)
    if grammar is not None:
        call["grammar"] = grammar
    calls = [{**call, "prompt": prompt} for prompt in prompts]
    choices, top, echo = request.n or 1, request.logprobs, bool(request.echo)
    texts = [prompt if isinstance(prompt, str) else "" for prompt in prompts]
    translated = top is not None or echo

    def whole(answer: JsonObject, index: int) -> JsonObject:
        return _completed(answer, texts[index // choices] if echo else "", top)

    def chunks(index: int) -> ChunkTransform:
        return _CompletionChunks(texts[index // choices] if echo else "", top)

    return _fan_out(
        COMPLETIONS,
        request,
        calls,
        chunks=chunks if translated else None,
        whole=whole if translated else None,
    )


def _passed_on(
    path: str,
    request: ChatRequest | CompletionRequest,
    body: bytes,
    model: str,
    capabilities: Capabilities,
) -> Plan:
    """The body as it came, under the engine's name for the model."""
    document: JsonObject = orjson.loads(body)
    document["model"] = model
    schema, grammar = document.pop("json_schema", None), document.pop("grammar", None)
    if schema is not None:
        document["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema},
        }
    if grammar is not None:
        if capabilities.grammar != "vllm":
            raise refused(UnsupportedParameter, "grammar", "This model does not take a grammar.")
        document["structured_outputs"] = {"grammar": grammar}
    if capabilities.grammar == "vllm":
        _check_schema(request)
    options = request.stream_options
    return Plan(
        path,
        [orjson.dumps(document)],
        stream=bool(request.stream),
        include_usage=options is not None and options.include_usage,
        choices_each=request.n or 1,
    )


def _check_schema(request: ChatRequest | CompletionRequest) -> None:
    """vLLM enforces what it knows of a schema and passes over the rest in silence; we do not."""
    schema = request.schema_of_answer() if isinstance(request, ChatRequest) else request.json_schema
    if schema is not None:
        try:
            schema_grammar(schema, LEAST_BUDGET)
        except SchemaNotSupported as error:
            message = f"Invalid schema for response_format: {error}."
            raise refused(InvalidSchema, "response_format", message) from None


def _refuse_unknown(request: ChatRequest | CompletionRequest) -> None:
    for name in request.unknown():
        raise refused(UnsupportedParameter, name[:64], f"Unrecognized request argument supplied: {name[:64]}")


def _sampling(request: ChatRequest | CompletionRequest, limit: int | None) -> JsonObject:
    call: JsonObject = {name: value for name in _SAMPLING if (value := getattr(request, name)) is not None}
    if limit is not None:
        call["max_tokens"] = limit
    if request.seed is not None:
        # What is cached was computed in other batches; only a fresh prompt gives the same bits again.
        call["cache_prompt"] = False
    return call


def _plain_messages(request: ChatRequest, system: str | None) -> list[JsonObject]:
    try:
        return tools.plain_messages(request.messages, system)
    except ValueError as error:
        raise refused(
            UnsupportedParameter, "messages", f"{str(error)[:1].upper()}{str(error)[1:]}."
        ) from None


def _chat_grammar(request: ChatRequest, capabilities: Capabilities) -> str | None:
    functions, must = request.callable_tools()
    schema = request.schema_of_answer()
    param = "tools" if functions else "response_format"
    try:
        if request.grammar is not None:
            param = "grammar"
            check_grammar(request.grammar)
            return request.grammar
        budget = _budget(
            request.token_limit, sum(len(message.text() or "") for message in request.messages), capabilities
        )
        if functions:
            answer = read_schema(schema) if schema is not None else None
            return tools.tools_grammar(functions, budget, must=must, answer=answer)
        return schema_grammar(schema, budget) if schema is not None else None
    except SchemaNotSupported as error:
        raise refused(InvalidSchema, param, f"Invalid schema for {param}: {error}.") from None


def _completion_grammar(request: CompletionRequest, capabilities: Capabilities) -> str | None:
    try:
        if request.grammar is not None:
            check_grammar(request.grammar)
            return request.grammar
        if request.json_schema is None:
            return None
        longest = max(len(prompt) for prompt in request.prompts())
        return schema_grammar(request.json_schema, _budget(request.max_tokens or 16, longest, capabilities))
    except SchemaNotSupported as error:
        param = "grammar" if request.grammar is not None else "json_schema"
        raise refused(InvalidSchema, param, f"Invalid schema for {param}: {error}.") from None


def _budget(limit: int | None, prompt_characters: int, capabilities: Capabilities) -> int:
    """Tokens the answer may have: what the client allows, within what the context leaves."""
    context = capabilities.context_length or 4096
    left = context - prompt_characters // CHARACTERS_PER_TOKEN - RESERVE_TOKENS
    return max(LEAST_BUDGET, min(left, limit) if limit is not None else left)


def _fan_out(
    path: str,
    request: ChatRequest | CompletionRequest,
    calls: Sequence[Mapping[str, Any]],
    *,
    chunks: Callable[[int], ChunkTransform] | None,
    whole: Callable[[JsonObject, int], JsonObject] | None,
) -> Plan:
    """One call for each prompt and choice; choices of one prompt differ in their seeds."""
    choices = request.n or 1
    stream = bool(request.stream)
    asked = request.stream_options is not None and request.stream_options.include_usage
    many = len(calls) * choices > 1
    bodies = []
    for call in calls:
        for choice in range(choices):
            single = dict(call)
            if request.seed is not None:
                single["seed"] = (request.seed + choice) % 0xFFFFFFFF
            if stream:
                single |= {"stream": True, "stream_options": {"include_usage": asked or many}}
            bodies.append(orjson.dumps(single))
    return Plan(path, bodies, stream, asked, choices, chunks, whole)


def _completed(answer: JsonObject, echoed: str, top: int | None) -> JsonObject:
    for choice in answer["choices"]:
        if top is not None:
            choice["logprobs"] = LegacyLogprobs(top).translate(choice.get("logprobs"))
        choice["text"] = echoed + choice["text"]
    return answer


class _CompletionChunks:
    """Chunks of a text completion: the echoed prompt first, log probabilities in their old shape."""

    def __init__(self, echoed: str, top: int | None) -> None:
        self._echoed = echoed
        self._logprobs = LegacyLogprobs(top) if top is not None else None

    def __call__(self, chunk: JsonObject) -> list[JsonObject]:
        for choice in chunk.get("choices") or ():
            if self._logprobs is not None:
                choice["logprobs"] = self._logprobs.translate(choice.get("logprobs"))
            if self._echoed:
                choice["text"] = self._echoed + choice.get("text", "")
                self._echoed = ""
        return [chunk]
