"""JSON schemas at random, and documents at random that a grammar admits."""

from __future__ import annotations

import random
from typing import Any

import llguidance

Schema = dict[str, Any]

_WORDS = ("name", "age", "city", "tags", "score", "address", "kind", "notes", "when", "ok", "items", "unit")
_PATTERNS = ("^[a-z]{2,8}$", "^[A-Z]{3}-\\d{2}$", "^\\d{4}$", "^(red|green|blue)$", "[aeiou]")
_FORMATS = ("date", "date-time", "uuid", "ipv4", "email", "time")


def random_schema(source: random.Random, depth: int = 3) -> Schema:
    """An object schema as people write them: nested, optional members, bounds, references."""
    schema = _object(source, depth)
    if source.random() < 0.3:
        schema["$defs"] = {"part": _leaf(source)}
        schema["properties"]["part"] = {"$ref": "#/$defs/part"}
        schema["required"] = [*schema["required"], "part"]
    if source.random() < 0.2:
        schema["properties"]["inner"] = {"anyOf": [{"$ref": "#"}, {"type": "null"}]}
    return schema


def _object(source: random.Random, depth: int) -> Schema:
    names = source.sample(_WORDS, source.randint(1, 4))
    schema: Schema = {
        "type": "object",
        "properties": {name: _any(source, depth - 1) for name in names},
        "required": [name for name in names if source.random() < 0.7],
    }
    if source.random() < 0.5:
        schema["additionalProperties"] = False
    return schema


def _any(source: random.Random, depth: int) -> Schema:
    if depth <= 0 or source.random() < 0.55:
        return _leaf(source)
    match source.randint(0, 3):
        case 0:
            return _object(source, depth)
        case 1:
            schema: Schema = {"type": "array", "items": _any(source, depth - 1)}
            if source.random() < 0.6:
                schema["minItems"] = source.randint(0, 2)
            if source.random() < 0.6:
                schema["maxItems"] = source.randint(2, 4)
            return schema
        case 2:
            return {"anyOf": [_leaf(source), _any(source, depth - 1)]}
    schema = {"type": "object", "additionalProperties": _leaf(source)}
    if source.random() < 0.5:
        schema["minProperties"] = 1
    return schema


def _leaf(source: random.Random) -> Schema:
    match source.randint(0, 8):
        case 0:
            return {"type": "string"}
        case 1:
            low = source.randint(0, 6)
            return {"type": "string", "minLength": low, "maxLength": low + source.randint(0, 20)}
        case 2:
            return {"type": "string", "pattern": source.choice(_PATTERNS)}
        case 3:
            return {"type": "string", "format": source.choice(_FORMATS)}
        case 4:
            low = source.randint(-1000, 1000)
            return {"type": "integer", "minimum": low, "maximum": low + source.randint(0, 500)}
        case 5:
            return {"type": source.choice(["number", "integer"])}
        case 6:
            above = source.uniform(-5, 5)
            return {"type": "number", "exclusiveMinimum": above, "maximum": above + source.uniform(0.1, 10)}
        case 7:
            return {"enum": source.sample(["red", "green", 1, 2.5, None, True, 'a "quoted" one'], 3)}
    return {"type": ["string", "null", "boolean"], "maxLength": 12}


_BYTES = llguidance.LLTokenizer("byte")


def random_document(grammar: str, source: random.Random, limit: int) -> str | None:
    """A document the grammar admits, letter by letter at random; None when it takes over `limit` bytes."""
    matcher = llguidance.LLMatcher(_BYTES, grammar)
    document = bytearray()
    while len(document) <= limit:
        assert not matcher.is_error(), matcher.get_error()
        allowed = [token for token, bias in enumerate(matcher.compute_logit_bias()) if bias]
        if matcher.is_stopped() or not allowed or allowed == [_BYTES.eos_token]:
            return document.decode()
        token = source.choice(allowed)
        if token == _BYTES.eos_token:
            return document.decode()
        assert matcher.consume_token(token)
        document.append(token)
    return None
