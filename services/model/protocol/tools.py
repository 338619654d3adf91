"""Tool calls for llama.cpp, whose own are not enforced: a call that is required does not always come.

The functions are described in the system message, in the form most open models were trained on; a
call is the line

    <tool_call>{"name":"get_weather","arguments":{"city":"Paris"}}

and a grammar lets the model write nothing that only begins like one. The grammar ends with the
arguments, so the closing brace is never generated: everything after `"arguments":` is the arguments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ulid import ULID

from services.model.protocol.grammar import Call, call_grammar
from services.model.protocol.nodes import Node, SchemaNotSupported
from services.model.protocol.requests import FunctionDefinition, Message
from services.model.protocol.schema import read_schema

OPENING = "<tool_call>"
ARGUMENTS = ',"arguments":'
_NO_PARAMETERS = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}

JsonObject = dict[str, Any]


def opening_of(name: str) -> str:
    """What a call of `name` begins with."""
    return f'{OPENING}{{"name":{json.dumps(name)}{ARGUMENTS}'


def tools_grammar(
    functions: Sequence[FunctionDefinition], budget: int, *, must: bool, answer: Node | None
) -> str:
    """The grammar of an answer that may, or must, call one of `functions`.

    Raises:
        SchemaNotSupported: naming the function whose parameters cannot be enforced.
    """
    calls = []
    for function in functions:
        opening = opening_of(function.name)
        try:
            arguments = read_schema({"type": "object", **(function.parameters or _NO_PARAMETERS)})
        except SchemaNotSupported as error:
            raise SchemaNotSupported(f"tools/{function.name}{error.path}", str(error)) from None
        calls.append(Call(opening, arguments))
    return call_grammar(calls, budget, must=must, answer=answer)


def instructions(functions: Sequence[FunctionDefinition], *, must: bool) -> str:
    """What the system message says about the functions."""
    lines = [
        "You can call functions. To call one, answer with nothing but a line of this form:",
        OPENING + '{"name":"FUNCTION","arguments":ARGUMENTS}',
        "You must call a function now." if must else "Call a function only when it is needed.",
        "The functions, with the JSON schema of their arguments:",
    ]
    for function in functions:
        schema = json.dumps(function.parameters or _NO_PARAMETERS, separators=(",", ":"), ensure_ascii=False)
        description = f": {function.description}" if function.description else ""
        lines.append(f"- {function.name}{description} {schema}")
    return "\n".join(lines)


def plain_messages(messages: Sequence[Message], system: str | None) -> list[JsonObject]:
    """The conversation with text only: calls and their results written out, `system` put first.

    Raises:
        ValueError: a message has a part that is not text.
    """
    plain: list[JsonObject] = []
    names: dict[str, str] = {}
    for index, message in enumerate(messages):
        text = message.text()
        if text is None:
            raise ValueError(f"message {index} has a part that is not text, which this model cannot read")
        for call in message.tool_calls or ():
            names[call.id] = call.function.name
            written = opening_of(call.function.name) + call.function.arguments + "}"
            text = f"{text}\n{written}" if text else written
        role = "system" if message.role == "developer" else message.role
        if role == "tool":
            role, name = "user", names.get(message.tool_call_id or "", "function")
            text = f"Result of {name}: {text}"
        plain.append({"role": role, "content": text})
    if system is not None:
        if plain and plain[0]["role"] == "system":
            plain[0]["content"] += "\n\n" + system
        else:
            plain.insert(0, {"role": "system", "content": system})
    return plain


def tool_call(name: str, arguments: str) -> JsonObject:
    """A tool call as it stands in an assistant's message."""
    return {"id": f"call_{ULID()}", "type": "function", "function": {"name": name, "arguments": arguments}}


def parse_call(text: str) -> tuple[str, str] | None:
    """Name and arguments of the call in a whole answer, or None when it is not one."""
    if not text.startswith(OPENING):
        return None
    head, found, arguments = text.partition(ARGUMENTS)
    return (_name_in(head), arguments) if found else None


def _name_in(head: str) -> str:
    _, _, quoted = head.partition('{"name":')
    return str(json.loads(quoted))


@dataclass
class CallStream:
    """Turns the pieces of an answer into deltas: content, or one tool call."""

    index: int = 0
    held: str = ""
    state: str = field(default="undecided")

    def feed(self, piece: str) -> list[JsonObject]:
        """The deltas for another piece of text."""
        if self.state == "content":
            return [{"content": piece}] if piece else []
        if self.state == "arguments":
            return [self._arguments(piece)] if piece else []
        self.held += piece
        if not OPENING.startswith(self.held[: len(OPENING)]):
            self.state = "content"
            return [{"content": self._release()}]
        head, found, arguments = self.held.partition(ARGUMENTS)
        if not found:
            return []
        self.state, self.held = "arguments", ""
        call = tool_call(_name_in(head), "")
        deltas: list[JsonObject] = [{"content": None, "tool_calls": [{"index": self.index, **call}]}]
        return [*deltas, self._arguments(arguments)] if arguments else deltas

    def finish(self) -> list[JsonObject]:
        """What was still held back: an answer cut off inside the head of a call is content."""
        if self.state == "undecided" and self.held:
            self.state = "content"
            return [{"content": self._release()}]
        return []

    @property
    def is_call(self) -> bool:
        """Whether the answer turned out to be a call."""
        return self.state == "arguments"

    def _release(self) -> str:
        text, self.held = self.held, ""
        return text

    def _arguments(self, piece: str) -> JsonObject:
        return {"tool_calls": [{"index": self.index, "function": {"arguments": piece}}]}
