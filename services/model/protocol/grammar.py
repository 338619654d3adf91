"""Grammars for llguidance, the engine of constrained decoding inside llama.cpp.

llama.cpp answers without any constraint when llguidance refuses a grammar, and says nothing. So
every grammar is compiled here first, by the same library, before it is sent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llguidance import LLMatcher

from services.model.protocol.bounded import bounded_schema
from services.model.protocol.nodes import Node, SchemaNotSupported
from services.model.protocol.schema import read_schema

HEADER = "%llguidance {}\n"
_COMPACT = {"whitespace_flexible": False}


@dataclass(frozen=True, slots=True)
class Call:
    """A function the answer may call: how the call begins, and the schema of its arguments."""

    opening: str
    arguments: Node


def schema_grammar(schema: Any, budget: int) -> str:
    """A grammar for the JSON documents of `schema`, each at most `budget` characters if possible.

    Raises:
        SchemaNotSupported: it cannot be enforced.
    """
    return _checked(f"{HEADER}start: {_json_rule(read_schema(schema), budget)}")


def call_grammar(calls: Sequence[Call], budget: int, *, must: bool, answer: Node | None) -> str:
    """A grammar for one call of `calls` or, unless it `must` call, for text or an `answer` of JSON.

    Raises:
        SchemaNotSupported: the arguments of a function cannot be enforced.
    """
    lines = [
        f"call_{index}: {json.dumps(call.opening)} {_json_rule(call.arguments, budget)}"
        for index, call in enumerate(calls)
    ]
    options = [f"call_{index}" for index in range(len(calls))]
    if not must:
        options.append("other")
        # Text that does not begin like a call.
        other = r"/[^<](.|\n)*|<[^t](.|\n)*/" if answer is None else _json_rule(answer, budget)
        lines.append(f"other: {other}")
    return _checked("\n".join([f"{HEADER}start: {' | '.join(options)}", *lines]))


def check_grammar(grammar: str) -> None:
    """Compile a grammar a client sent, where it is in llguidance's language; GBNF is left to the engine.

    Raises:
        SchemaNotSupported: it does not compile.
    """
    if grammar.lstrip().startswith("%llguidance"):
        _checked(grammar)


def _json_rule(node: Node, budget: int) -> str:
    schema = {"x-guidance": _COMPACT, **bounded_schema(node, budget)}
    return "%json " + json.dumps(schema, separators=(",", ":"))


@lru_cache(maxsize=256)
def _checked(grammar: str) -> str:
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if failed:
        raise SchemaNotSupported("", _reason(messages))
    return grammar


def _reason(messages: Sequence[str]) -> str:
    """The part of the compiler's report that speaks of the schema."""
    lines = (messages[0] if messages else "it cannot be compiled").splitlines()
    first = lines[0].rpartition("failed to compile JSON schema: ")[2] or lines[0]
    told = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return f"it cannot be enforced: {' '.join([first, *told])[:300]}"
