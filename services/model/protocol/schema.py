"""JSON schemas that a grammar can truly enforce.

A schema is read into a small tree of nodes (`read_schema`): references are expanded, `allOf` and
sibling keywords are merged, types without a keyword of their own are inferred, and every keyword a
grammar cannot guarantee is refused by name. What stays is always at least as strict as the schema
given: whatever the tree accepts, the schema accepts.

Draft 2020-12; the keywords are those of its validation vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError as InvalidDraft

from services.model.protocol.merging import ANNOTATIONS, merge
from services.model.protocol.nodes import (
    Array,
    Choice,
    Json,
    Map,
    Never,
    Node,
    Numeric,
    Object,
    SchemaNotSupported,
    Text,
    anything,
    scalars,
    union,
)

MAX_NODES = 4096
MAX_DEPTH = 48
#: How often a schema may occur inside itself; deeper levels are left out.
MAX_RECURSION = 3

FORMATS = frozenset({"date-time", "date", "time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
_BY_TYPE = {
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems", "uniqueItems"}),
    "object": frozenset(
        {
            "properties", "required", "additionalProperties", "patternProperties", "minProperties",
            "maxProperties",
        }
    ),
}  # fmt: skip
_BY_TYPE["integer"] = _BY_TYPE["number"]
_COMBINING = frozenset({"anyOf", "oneOf", "allOf", "$ref", "enum", "const", "type"})
_KNOWN = ANNOTATIONS | _COMBINING | frozenset().union(*_BY_TYPE.values())
_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")


def read_schema(schema: Json) -> Node:
    """The tree of nodes for `schema`.

    Raises:
        SchemaNotSupported: naming the keyword and where it stands.
    """
    try:
        Draft202012Validator.check_schema(schema)
    except InvalidDraft as error:
        where = "".join(f"/{part}" for part in error.absolute_path)
        raise SchemaNotSupported(where, f"not a valid JSON schema: {error.message[:300]}") from None
    node = _Reader(schema).read(schema, "", ())
    if isinstance(node, Never):
        raise SchemaNotSupported("", "no value can satisfy it")
    return node


@dataclass
class _Reader:
    root: Json
    nodes: int = 0
    #: How often each reference is open on the path from the root.
    open_references: dict[str, int] = field(default_factory=dict)

    def read(self, schema: Json, path: str, trail: tuple[str, ...]) -> Node:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(trail) > MAX_DEPTH:
            raise SchemaNotSupported(path, "the schema is too large")
        if schema is True:
            return anything()
        if schema is False:
            return Never()
        unknown = [name for name in schema if name not in _KNOWN and not name.startswith("x-")]
        if unknown:
            raise SchemaNotSupported(path, f"the keyword '{unknown[0]}' is not supported")
        deeper = (*trail, path)
        if "$ref" in schema:
            return self._reference(schema, path, deeper)
        if "allOf" in schema:
            return self.read(self._merged(schema, path), path, deeper)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                return self._options(schema, keyword, path, deeper)
        if "const" in schema or "enum" in schema:
            return _choice(schema)
        kinds = _types_of(schema)
        return union(self._typed(kind, schema, path, deeper) for kind in kinds)

    def _reference(self, schema: Json, path: str, trail: tuple[str, ...]) -> Node:
        reference = schema["$ref"]
        if self.open_references.get(reference, 0) > MAX_RECURSION:
            return Never()
        target = self._look_up(reference, path)
        siblings = {name: value for name, value in schema.items() if name not in ANNOTATIONS | {"$ref"}}
        if siblings:
            target = merge(target, siblings, path)
        self.open_references[reference] = self.open_references.get(reference, 0) + 1
        try:
            return self.read(target, path, trail)
        finally:
            self.open_references[reference] -= 1

    def _look_up(self, reference: str, path: str) -> Json:
        if reference != "#" and not reference.startswith("#/"):
            raise SchemaNotSupported(path, f"the reference '{reference[:80]}' leaves the document")
        target = self.root
        for part in reference[2:].split("/") if len(reference) > 1 else ():
            name = part.replace("~1", "/").replace("~0", "~")
            try:
                target = target[int(name)] if isinstance(target, list) else target[name]
            except (KeyError, IndexError, ValueError, TypeError):
                raise SchemaNotSupported(path, f"the reference '{reference[:80]}' points nowhere") from None
        if not isinstance(target, dict | bool):
            raise SchemaNotSupported(path, f"the reference '{reference[:80]}' is not to a schema")
        return target

    def _merged(self, schema: Json, path: str) -> Json:
        merged = {name: value for name, value in schema.items() if name != "allOf"}
        for index, part in enumerate(schema["allOf"]):
            where = f"{path}/allOf/{index}"
            seen = 0
            while isinstance(part, dict) and "$ref" in part:
                seen += 1
                if seen > MAX_DEPTH:
                    raise SchemaNotSupported(where, "the reference leads back to itself")
                rest = {name: value for name, value in part.items() if name != "$ref"}
                part = merge(self._look_up(part["$ref"], where), rest, where)
            if part is False:
                return False
            if part is not True:
                merged = merge(merged, part, where)
        return merged

    def _options(self, schema: Json, keyword: str, path: str, trail: tuple[str, ...]) -> Node:
        base = {name: value for name, value in schema.items() if name not in (keyword, *ANNOTATIONS)}
        options = [option for option in schema[keyword] if option is not False]
        if keyword == "oneOf":
            self._check_exclusive(options, path)
        if base:
            options = [option if option is True else merge(base, option, path) for option in options]
            options = [base if option is True else option for option in options]
        return union(
            self.read(option, f"{path}/{keyword}/{index}", trail) for index, option in enumerate(options)
        )

    def _check_exclusive(self, options: Sequence[Json], path: str) -> None:
        """oneOf promises that no value fits two options: true where types or constants differ."""
        marks = [self._marks(option, path) for option in options]
        for index, mine in enumerate(marks):
            for other in marks[index + 1 :]:
                if not any(
                    mine.get(name, set()).isdisjoint(values) for name, values in other.items() if name in mine
                ):
                    raise SchemaNotSupported(
                        path,
                        "the options of 'oneOf' may overlap; use 'anyOf' or tell them apart by a constant",
                    )

    def _marks(self, option: Json, path: str) -> dict[str, set[str]]:
        """What tells an option apart: its types, and the constants of its required members."""
        for _ in range(MAX_DEPTH):
            if not (isinstance(option, dict) and "$ref" in option):
                break
            option = self._look_up(option["$ref"], path)
        if not isinstance(option, dict):
            return {}
        marks: dict[str, set[str]] = {}
        if "const" in option or "enum" in option:
            values = [option["const"]] if "const" in option else option["enum"]
            marks[""] = {_type_name(value) for value in values}
            marks["="] = {json.dumps(value, sort_keys=True) for value in values}
            return marks
        kinds = set(_types_of(option))
        marks[""] = kinds | ({"integer"} if "number" in kinds else set())
        required = set(option.get("required", ()))
        for name, member in option.get("properties", {}).items():
            if name in required and isinstance(member, dict) and ("const" in member or "enum" in member):
                values = [member["const"]] if "const" in member else member["enum"]
                marks[f"/{name}"] = {json.dumps(value, sort_keys=True) for value in values}
        return marks

    def _typed(self, kind: str, schema: Json, path: str, trail: tuple[str, ...]) -> Node:
        match kind:
            case "null":
                return Choice((None,))
            case "boolean":
                return Choice((True, False))
            case "string":
                return _text(schema, path)
            case "integer" | "number":
                return _numeric(schema, integer=kind == "integer")
            case "array":
                return self._array(schema, path, trail)
            case _:
                return self._object(schema, path, trail)

    def _array(self, schema: Json, path: str, trail: tuple[str, ...]) -> Node:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if schema.get("uniqueItems"):
            # A grammar cannot compare items; one item is always unique.
            if least > 1:
                raise SchemaNotSupported(path, "'uniqueItems' with more than one item is not supported")
            most = 1 if most is None else min(most, 1)
        prefix = tuple(
            self.read(item, f"{path}/prefixItems/{index}", trail)
            for index, item in enumerate(schema.get("prefixItems", ()))
        )
        items = self.read(schema.get("items", True), f"{path}/items", trail)
        for index, item in enumerate(prefix):
            if isinstance(item, Never):
                prefix, items = prefix[:index], Never()
                break
        if isinstance(items, Never):
            most = len(prefix) if most is None else min(most, len(prefix))
        if most is not None and least > most:
            return Never()
        return Array(prefix, items, least, most)

    def _object(self, schema: Json, path: str, trail: tuple[str, ...]) -> Node:
        properties = schema.get("properties", {})
        extra = schema.get("additionalProperties", True)
        required = list(schema.get("required", ()))
        patterns = schema.get("patternProperties", {})
        if not properties and not required:
            return self._mapping(schema, patterns, extra, path, trail)
        if patterns:
            raise SchemaNotSupported(path, "'patternProperties' beside 'properties' is not supported")
        members = dict(properties) | {name: extra for name in required if name not in properties}
        nodes = {
            name: self.read(member, f"{path}/properties/{name}", trail) for name, member in members.items()
        }
        needed = set(required)
        if any(isinstance(nodes[name], Never) for name in needed):
            return Never()
        possible = [name for name in nodes if not isinstance(nodes[name], Never)]
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        # Too few required members: the first optional ones become required. Too many: the last go.
        for name in possible:
            if len(needed) >= least:
                break
            needed.add(name)
        if most is not None and len(possible) > most:
            optional = [name for name in possible if name not in needed]
            kept = needed | set(optional[: max(0, most - len(needed))])
            possible = [name for name in possible if name in kept]
        if len(needed) < least or (most is not None and len(needed) > most):
            return Never()
        return Object(tuple((name, nodes[name], name in needed) for name in possible))

    def _mapping(
        self, schema: Json, patterns: Mapping[str, Json], extra: Json, path: str, trail: tuple[str, ...]
    ) -> Node:
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        if least > 1:
            # A grammar cannot see that a name was used before.
            raise SchemaNotSupported(path, "'minProperties' above 1 without 'properties' is not supported")
        if len(patterns) > 1:
            raise SchemaNotSupported(path, "more than one 'patternProperties' is not supported")
        for pattern, member in patterns.items():
            value = self.read(member, f"{path}/patternProperties/{pattern}", trail)
            return self._map_of(value, pattern, least, most)
        value = self.read(extra, f"{path}/additionalProperties", trail) if extra is not True else scalars()
        return self._map_of(value, None, least, most)

    @staticmethod
    def _map_of(value: Node, names: str | None, least: int, most: int | None) -> Node:
        if isinstance(value, Never) or most == 0:
            return Never() if least else Object(())
        return Map(value, names, least, most)


def _type_name(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _types_of(schema: Json) -> Sequence[str]:
    """The types a schema speaks of: as it says, else as its keywords tell, else all."""
    kinds = schema.get("type")
    if kinds is not None:
        listed = [kinds] if isinstance(kinds, str) else list(kinds)
        return [kind for kind in listed if not (kind == "integer" and "number" in listed)]
    told = [
        kind
        for kind in ("object", "array", "string", "number")
        if any(name in schema for name in _BY_TYPE[kind])
    ]
    return told or [kind for kind in _TYPES if kind != "integer"]


def _choice(schema: Json) -> Node:
    values = [schema["const"]] if "const" in schema else schema["enum"]
    # The other keywords may forbid some of the values.
    rest = Draft202012Validator({name: value for name, value in schema.items() if name not in ANNOTATIONS})
    allowed = tuple(value for value in values if rest.is_valid(value))
    return Choice(allowed) if allowed else Never()


def _text(schema: Json, path: str) -> Node:
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if most is not None and least > most:
        return Never()
    form = schema.get("format")
    if form is not None and form not in FORMATS:
        raise SchemaNotSupported(
            path, f"the format '{form}' is not supported; supported are {', '.join(sorted(FORMATS))}"
        )
    if form is not None and "pattern" in schema:
        raise SchemaNotSupported(path, "'pattern' and 'format' together are not supported")
    return Text(least, most, schema.get("pattern"), form)


def _numeric(schema: Json, *, integer: bool) -> Node:
    return Numeric(
        integer,
        schema.get("minimum"),
        schema.get("maximum"),
        schema.get("exclusiveMinimum"),
        schema.get("exclusiveMaximum"),
        schema.get("multipleOf"),
    )
