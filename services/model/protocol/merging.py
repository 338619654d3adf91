"""Two schemas that both hold, said in one: for `allOf`, `$ref` and keywords beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from services.model.protocol.nodes import Json, SchemaNotSupported

#: Keywords that ask for nothing.
ANNOTATIONS = frozenset(
    {
        "$schema", "$id", "$comment", "$defs", "definitions", "$anchor", "title", "description", "default",
        "examples", "example", "deprecated", "readOnly", "writeOnly", "contentEncoding", "contentMediaType",
        "discriminator",
    }
)  # fmt: skip


def merge(first: Json, second: Json, path: str) -> Json:
    """One schema that asks for both, where that can be said in one.

    Raises:
        SchemaNotSupported: it cannot.
    """
    if first is True or second is True:
        return second if first is True else first
    if first is False or second is False:
        return False
    _check_items(first, second, path)
    merged = dict(first)
    for name, value in second.items():
        known: Json = merged.get(name)
        if name not in merged or known == value or name in ANNOTATIONS:
            merged[name] = value
        elif name in _MERGERS:
            merged[name] = _MERGERS[name](known, value)
        elif name == "additionalProperties":
            merged[name] = merge(known, value, f"{path}/additionalProperties")
        elif name != "properties":
            raise SchemaNotSupported(path, f"two different '{name}' cannot be combined")
    if "properties" in merged:
        merged["properties"] = _members(first, second, path)
    return merged


def _members(first: Json, second: Json, path: str) -> Json:
    """Members of both; one that only one side names meets the other's `additionalProperties`."""
    one, two = first.get("properties", {}), second.get("properties", {})
    rest_one, rest_two = (schema.get("additionalProperties", True) for schema in (first, second))
    return {
        name: merge(one.get(name, rest_one), two.get(name, rest_two), f"{path}/properties/{name}")
        for name in dict.fromkeys([*one, *two])
    }


def _check_items(first: Json, second: Json, path: str) -> None:
    """`items` speaks of the places after `prefixItems` of its own schema only."""
    for one, two in ((first, second), (second, first)):
        if "prefixItems" in one and "items" in two and one.get("prefixItems") != two.get("prefixItems"):
            raise SchemaNotSupported(path, "different 'prefixItems' and 'items' cannot be combined")


def _both_types(first: Json, second: Json) -> list[str]:
    one, two = ([kinds] if isinstance(kinds, str) else list(kinds) for kinds in (first, second))
    both = [kind for kind in one if kind in two or (kind == "integer" and "number" in two)]
    return both + [kind for kind in two if kind == "integer" and "number" in one and kind not in both]


_MERGERS: dict[str, Callable[[Any, Any], Any]] = {
    "required": lambda one, two: list(dict.fromkeys([*one, *two])),
    "enum": lambda one, two: [value for value in one if value in two],
    "type": _both_types,
    **dict.fromkeys(("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum"), max),
    **dict.fromkeys(("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum"), min),
}
