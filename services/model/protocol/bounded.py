"""Gives a schema tree an end: every answer it admits fits into a number of tokens.

A language model that may write a string of any length will sometimes never close it, and half a JSON
document is worth nothing. So strings, arrays and maps without a bound of their own get one, the
largest with which the longest possible answer still fits. A token is at least one character of JSON,
so characters stand for tokens.
"""

from __future__ import annotations

import json
import math
from typing import Any

from services.model.protocol.nodes import (
    Array,
    Choice,
    Map,
    Never,
    Node,
    Numeric,
    Object,
    Text,
    Union,
)

#: Digits a double holds exactly.
WHOLE = 10**15
DECIMALS = 6
LONGEST_TEXT = 1 << 14
MOST_ITEMS = 256
TEXT_PER_ITEM = 8
_FORMAT_LENGTHS = {
    "date-time": 32, "date": 10, "time": 21, "duration": 24, "email": 64, "hostname": 64,
    "ipv4": 15, "ipv6": 39, "uuid": 36,
}  # fmt: skip
#: Names of free members: what people would call a field.
_NAMES = r"^[A-Za-z_][A-Za-z0-9_ .-]{0,31}$"
_NAME_LENGTH = 32

JsonSchema = dict[str, Any]


def bounded_schema(node: Node, budget: int) -> JsonSchema:
    """The schema for llguidance whose longest answer has at most `budget` characters, if that is possible.

    Where even the shortest bounds exceed the budget, those are used.
    """
    low, high = 1, LONGEST_TEXT
    while low < high:
        middle = (low + high + 1) // 2
        if longest(node, middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return emit(node, low)


def longest(node: Node, scale: int) -> int:
    """Characters of the longest answer when unbounded strings have `scale` characters."""
    match node:
        case Choice(values):
            return max(len(_compact(value)) for value in values)
        case Text():
            return 2 + _text_length(node, scale)
        case Numeric():
            return _digits(node)
        case Array(prefix, items, least, most):
            count = _count(least, most, scale)
            leading = [longest(item, scale) for item in prefix[:count]]
            rest = count - len(leading)
            following = rest * (longest(items, scale) if rest > 0 else 0)
            return 2 + sum(leading) + following + count
        case Object(members):
            return 2 + sum(len(_compact(name)) + 2 + longest(value, scale) for name, value, _ in members)
        case Map(value, _, least, most):
            return 2 + _count(least, most, scale) * (_NAME_LENGTH + 4 + longest(value, scale))
        case Union(options):
            return max(longest(option, scale) for option in options)
        case Never():
            return 0


def emit(node: Node, scale: int) -> JsonSchema:
    """The node as a JSON schema in the keywords llguidance enforces."""
    match node:
        case Choice(values):
            return {"enum": list(values)}
        case Text():
            return _emit_text(node, scale)
        case Numeric():
            return _emit_numeric(node)
        case Array(prefix, items, least, most):
            return _emit_array(prefix, items, least, _count(least, most, scale), scale)
        case Object(members):
            return {
                "type": "object",
                "properties": {name: emit(value, scale) for name, value, _ in members},
                "required": [name for name, _, required in members if required],
                "additionalProperties": False,
            }
        case Map(value, names, least, most):
            return {
                "type": "object",
                "patternProperties": {names or _NAMES: emit(value, scale)},
                "additionalProperties": False,
                "minProperties": least,
                "maxProperties": _count(least, most, scale),
            }
        case Union(options):
            return {"anyOf": [emit(option, scale) for option in options]}
        case Never():
            raise ValueError("a schema that accepts nothing has no form")


def _count(least: int, most: int | None, scale: int) -> int:
    allowed = min(MOST_ITEMS, max(1, scale // TEXT_PER_ITEM))
    return max(least, allowed if most is None else min(most, allowed))


def _text_length(text: Text, scale: int) -> int:
    cap = scale
    if text.format is not None:
        cap = _FORMAT_LENGTHS[text.format]
    elif text.pattern is not None:
        # A pattern says what it wants; cut short it could become impossible.
        cap = max(scale, 64)
    return max(text.least, cap if text.most is None else min(text.most, cap))


def _emit_text(text: Text, scale: int) -> JsonSchema:
    schema: JsonSchema = {"type": "string", "maxLength": _text_length(text, scale)}
    if text.least:
        schema["minLength"] = text.least
    if text.pattern is not None:
        schema["pattern"] = text.pattern
    if text.format is not None:
        schema["format"] = text.format
    return schema


def _emit_array(prefix: tuple[Node, ...], items: Node, least: int, most: int, scale: int) -> JsonSchema:
    schema: JsonSchema = {"type": "array", "minItems": least, "maxItems": most}
    if prefix:
        schema["prefixItems"] = [emit(item, scale) for item in prefix]
    schema["items"] = False if isinstance(items, Never) else emit(items, scale)
    return schema


def _bounds(number: Numeric) -> tuple[float, float]:
    """Lower and upper bound, ours where the schema has none."""
    lows = [bound for bound in (number.least, number.above) if bound is not None]
    highs = [bound for bound in (number.most, number.below) if bound is not None]
    low = max(lows) if lows else min(-WHOLE, *(10 * high for high in highs)) if highs else -WHOLE
    high = min(highs) if highs else max(WHOLE, 10 * low)
    return low, high


def _decimals(low: float, high: float) -> int:
    """Digits after the point: six, more where the interval is too narrow for six."""
    width = high - low
    if width <= 0 or width >= 1:
        return DECIMALS
    return min(15, max(DECIMALS, math.ceil(-math.log10(width)) + 3))


def _digits(number: Numeric) -> int:
    low, high = _bounds(number)
    whole = max(len(str(int(bound))) for bound in (low, high)) + 1
    if number.integer:
        return whole
    return whole + 1 + max(_decimals(low, high), len(f"{number.multiple or 0:.15f}".rstrip("0")))


def _emit_numeric(number: Numeric) -> JsonSchema:
    low, high = _bounds(number)
    schema: JsonSchema = {"type": "integer" if number.integer else "number"}
    if number.least is not None or number.above is None:
        schema["minimum"] = low if number.least is None else number.least
    if number.most is not None or number.below is None:
        schema["maximum"] = high if number.most is None else number.most
    if number.above is not None:
        schema["exclusiveMinimum"] = number.above
    if number.below is not None:
        schema["exclusiveMaximum"] = number.below
    if number.multiple is not None:
        schema["multipleOf"] = number.multiple
    elif not number.integer:
        schema["multipleOf"] = float(f"1e-{_decimals(low, high)}")
    return schema


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
