"""What clients may ask, parameter by parameter, with the bounds of OpenAI's own API.

Fields we accept for compatibility and that change nothing here are listed in `IGNORED`. Fields this
module does not know end up in `model_extra`; whether they are refused depends on the engine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

MAX_CHOICES = 16
MAX_PROMPTS = 64
MAX_INPUTS = 2048
MAX_TOOLS = 128
MAX_MESSAGES = 4096

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Tokens = Annotated[int, Field(ge=1, le=1 << 24)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Stop = Annotated[str, StringConstraints(min_length=1, max_length=1024)]

IGNORED = frozenset(
    {
        "metadata", "modalities", "prediction", "prompt_cache_key", "prompt_cache_retention",
        "reasoning_effort", "safety_identifier", "service_tier", "store", "user", "verbosity",
    }
)  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Lenient(BaseModel):
    """Parts of messages: providers add members of their own, which do no harm."""

    model_config = ConfigDict(extra="allow", strict=True)


class ContentPart(_Lenient):
    """A part of a message; engines of ours read text, others may read more."""

    type: str = Field(max_length=32)
    text: str | None = None

    @model_validator(mode="after")
    def _text_has_text(self) -> Self:
        if self.type in ("text", "input_text") and self.text is None:
            raise ValueError("a part of type 'text' needs the field 'text'")
        return self


class CalledFunction(_Lenient):
    """The function of a past tool call; `arguments` is JSON in a string."""

    name: FunctionName
    arguments: str


class ToolCall(_Lenient):
    """A past tool call of the assistant."""

    id: str = Field(max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(_Lenient):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] | None = None
    name: str | None = Field(None, max_length=256)
    tool_calls: list[ToolCall] | None = Field(None, max_length=MAX_TOOLS)
    tool_call_id: str | None = Field(None, max_length=256)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.content is None and not (self.role == "assistant" and self.tool_calls):
            raise ValueError(f"a message of role '{self.role}' needs content")
        if self.role == "tool" and self.tool_call_id is None:
            raise ValueError("a message of role 'tool' needs tool_call_id")
        return self

    def text(self) -> str | None:
        """The content as one text, or None when it has parts that are not text."""
        if self.content is None or isinstance(self.content, str):
            return self.content or ""
        if any(part.text is None for part in self.content):
            return None
        return "".join(part.text or "" for part in self.content)


class FunctionDefinition(_Strict):
    """A function the model may call; `parameters` is a JSON schema."""

    name: FunctionName
    description: str | None = Field(None, max_length=16384)
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    """A tool; functions are the only kind."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(_Strict):
    name: FunctionName


class NamedTool(_Strict):
    """`{"type": "function", "function": {"name": ...}}`."""

    type: Literal["function"]
    function: NamedFunction


class AllowedToolsList(_Strict):
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1, max_length=MAX_TOOLS)


class AllowedTools(_Strict):
    """A subset of the tools, without changing the prompt."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedToolsList


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedTools


class JsonSchemaFormat(_Strict):
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class TextFormat(_Strict):
    type: Literal["text"]


class JsonObjectFormat(_Strict):
    type: Literal["json_object"]


class SchemaFormat(_Strict):
    type: Literal["json_schema"]
    json_schema: JsonSchemaFormat


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | SchemaFormat, Field(discriminator="type")]


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool = False


class _Generation(BaseModel):
    """Parameters that chat and text completions share, with llama.cpp's and vLLM's samplers."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    model: str = Field(min_length=1, max_length=256, examples=["default"])
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MAX_CHOICES)
    max_tokens: Tokens | None = None
    temperature: float | None = Field(None, ge=0, le=2, allow_inf_nan=False)
    top_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    top_k: int | None = Field(None, ge=-1, le=1 << 20)
    min_p: float | None = Field(None, ge=0, le=1, allow_inf_nan=False)
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repeat_penalty: float | None = Field(None, gt=0, le=4, allow_inf_nan=False)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    logit_bias: dict[Annotated[str, StringConstraints(pattern=r"^\d{1,7}$")], Bias] | None = Field(
        None, max_length=1024
    )
    ignore_eos: bool | None = None
    grammar: str | None = Field(
        None, max_length=1 << 18, description="GBNF grammar the answer follows (not OpenAI's; llama.cpp's)"
    )
    json_schema: dict[str, Any] | None = Field(
        None, description="short form of response_format json_schema (not OpenAI's; llama.cpp's)"
    )

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is only allowed when stream is true")
        return self

    def unknown(self) -> list[str]:
        """Names of fields nobody here knows."""
        return sorted(set(self.model_extra or ()) - IGNORED)


class ChatRequest(_Generation):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Tokens | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true")
        names = [tool.function.name for tool in self.tools or ()]
        if len(names) != len(set(names)):
            raise ValueError("tools have distinct names")
        if self.tool_choice is not None and self.tool_choice != "none" and not names:
            raise ValueError("tool_choice needs tools")
        unknown = sorted(set(self.chosen_names()) - set(names))
        if unknown:
            raise ValueError(f"tool_choice names '{unknown[0]}', which is not among the tools")
        if sum(item is not None for item in (self.grammar, self.json_schema, self.response_format)) > 1:
            raise ValueError("only one of response_format, json_schema and grammar can be given")
        if self.grammar is not None and names and self.tool_choice != "none":
            raise ValueError("grammar and tools exclude each other")
        return self

    def chosen_names(self) -> list[str]:
        """Tools that `tool_choice` names; empty when it names none."""
        choice = self.tool_choice
        if isinstance(choice, NamedTool):
            return [choice.function.name]
        if isinstance(choice, AllowedTools):
            return [tool.function.name for tool in choice.allowed_tools.tools]
        return []

    def callable_tools(self) -> tuple[list[FunctionDefinition], bool]:
        """The functions the model may call in this answer, and whether it must call one."""
        choice = self.tool_choice
        functions = [tool.function for tool in self.tools or ()]
        if choice == "none" or not functions:
            return [], False
        chosen = set(self.chosen_names())
        if chosen:
            functions = [function for function in functions if function.name in chosen]
        must = (
            choice == "required"
            or isinstance(choice, NamedTool)
            or (isinstance(choice, AllowedTools) and choice.allowed_tools.mode == "required")
        )
        return functions, must

    def schema_of_answer(self) -> dict[str, Any] | None:
        """The JSON schema the answer must follow, if any."""
        if self.json_schema is not None:
            return self.json_schema
        if isinstance(self.response_format, SchemaFormat):
            return self.response_format.json_schema.schema_
        if isinstance(self.response_format, JsonObjectFormat):
            # Without a member the models would stop at {}.
            return {"type": "object", "minProperties": 1}
        return None

    @property
    def token_limit(self) -> int | None:
        """Most tokens the answer may have."""
        return self.max_completion_tokens or self.max_tokens


TokenIds = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(min_length=1, max_length=1 << 20)]


class CompletionRequest(_Generation):
    """Body of POST /v1/completions."""

    prompt: (
        str
        | TokenIds
        | Annotated[list[str], Field(min_length=1, max_length=MAX_PROMPTS)]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_PROMPTS)]
    )
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=MAX_CHOICES)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.grammar is not None and self.json_schema is not None:
            raise ValueError("only one of json_schema and grammar can be given")
        if self.echo and self.logprobs is not None:
            raise ValueError("echo cannot be combined with logprobs")
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError("best_of is only supported when it equals n")
        return self

    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, always as a list of prompts."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        if isinstance(prompt[0], int):
            return [[token for token in prompt if isinstance(token, int)]]
        return prompt


class EmbeddingRequest(BaseModel):
    """Body of POST /v1/embeddings."""

    model_config = ConfigDict(extra="allow", strict=True, protected_namespaces=())

    model: str = Field(min_length=1, max_length=256, examples=["embed"])
    input: (
        Annotated[str, StringConstraints(min_length=1)]
        | TokenIds
        | Annotated[
            list[Annotated[str, StringConstraints(min_length=1)]],
            Field(min_length=1, max_length=MAX_INPUTS),
        ]
        | Annotated[list[TokenIds], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1, le=1 << 16)
    user: str | None = None

    def inputs(self) -> list[str] | list[list[int]]:
        """The inputs, always as a list of inputs."""
        given = self.input
        if isinstance(given, str):
            return [given]
        if isinstance(given[0], int):
            return [[token for token in given if isinstance(token, int)]]
        return given
