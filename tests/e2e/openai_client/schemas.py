"""Random JSON schemas of the kind people write for structured output."""

from __future__ import annotations

import random
from typing import Any

WORDS = (
    "name",
    "city",
    "count",
    "price",
    "tags",
    "active",
    "kind",
    "note",
    "items",
    "owner",
    "score",
    "date",
)


def random_schema(seed: int) -> dict[str, Any]:
    """An object schema of depth at most 3, closed, with every property required (strict mode)."""
    return _object(random.Random(seed), depth=0)


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randint(1, 4 if depth == 0 else 2))
    return {
        "type": "object",
        "properties": {name: _value(rng, depth + 1) for name in names},
        "required": names,
        "additionalProperties": False,
    }


def _value(rng: random.Random, depth: int) -> dict[str, Any]:
    kinds = ["string", "enum", "integer", "number", "boolean", "nullable", "pattern", "const"]
    if depth < 3:
        kinds += ["array", "object", "any_of"]
    match rng.choice(kinds):
        case "string":
            return {"type": "string", "maxLength": rng.randint(4, 24)}
        case "enum":
            return {"type": "string", "enum": rng.sample(WORDS, rng.randint(1, 5))}
        case "integer":
            low = rng.randint(-100, 100)
            return {"type": "integer", "minimum": low, "maximum": low + rng.randint(0, 500)}
        case "number":
            return {"type": "number"}
        case "boolean":
            return {"type": "boolean"}
        case "nullable":
            return {"type": ["string", "null"], "maxLength": 12}
        case "pattern":
            return {
                "type": "string",
                "pattern": rng.choice(["^[a-z]{2,5}$", "^[0-9]{4}-[0-9]{2}$", "^(red|blue)$"]),
            }
        case "const":
            return {"const": rng.choice(WORDS)}
        case "array":
            low = rng.randint(0, 2)
            return {
                "type": "array",
                "items": _value(rng, depth + 1),
                "minItems": low,
                "maxItems": low + rng.randint(1, 2),
            }
        case "any_of":
            return {"anyOf": [{"type": "integer"}, {"type": "string", "maxLength": 8}]}
        case _:
            return _object(rng, depth)
