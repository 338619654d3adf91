"""Schemas are enforced as they stand, or refused by name: never enforced in part."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from services.model.protocol.bounded import bounded_schema, longest
from services.model.protocol.grammar import check_grammar, schema_grammar
from services.model.protocol.merging import merge
from services.model.protocol.nodes import SchemaNotSupported
from services.model.protocol.schema import read_schema
from tests.unit.model.random_schemas import random_document, random_schema

BUDGET = 1500


@pytest.mark.parametrize("seed", range(60))
def test_whatever_the_grammar_admits_validates_and_ends_in_time(seed: int) -> None:
    """Walks through the grammar at random: no model could be worse. Strings bring escapes of six bytes."""
    source = random.Random(seed)
    schema = random_schema(source)
    grammar = schema_grammar(schema, BUDGET)
    for _ in range(5):
        document = random_document(grammar, source, limit=6 * BUDGET)
        assert document is not None, schema
        jsonschema.Draft202012Validator(schema).validate(json.loads(document))


def test_the_budget_bounds_the_longest_answer() -> None:
    source = random.Random(5)
    for _ in range(100):
        node = read_schema(random_schema(source, depth=2))
        if longest(node, 1) > 400:
            continue
        schema = bounded_schema(node, 400)
        # The emitted schema read again has every bound written out: its own longest answer fits.
        assert longest(read_schema(schema), 10**6) <= 400 + 40, schema


def test_one_string_gets_the_whole_budget() -> None:
    schema = bounded_schema(read_schema({"type": "string"}), 500)
    assert schema == {"type": "string", "maxLength": 498}


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"not": {"type": "string"}}, "'not' is not supported"),
        ({"type": "object", "if": {"required": ["a"]}, "then": {}}, "'if' is not supported"),
        ({"type": "array", "contains": {"type": "null"}}, "'contains' is not supported"),
        ({"type": "array", "uniqueItems": True, "minItems": 2}, "uniqueItems"),
        ({"type": "object", "propertyNames": {"maxLength": 3}}, "'propertyNames' is not supported"),
        ({"type": "string", "format": "iri"}, "the format 'iri' is not supported"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "maxLenght": 3}, "'maxLenght' is not supported"),
        ({"type": "no-such-type"}, "not a valid JSON schema"),
        ({"$ref": "https://example.org/other.json"}, "leaves the document"),
        ({"$ref": "#/$defs/missing"}, "points nowhere"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater"),
        ({"type": "string", "minLength": 5, "maxLength": 3}, "no value can satisfy it"),
        ({"enum": ["a"], "type": "integer"}, "no value can satisfy it"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "may overlap"),
        ({"allOf": [{"pattern": "a", "type": "string"}, {"pattern": "b"}]}, "two different 'pattern'"),
        ({"type": "object", "minProperties": 2}, "'minProperties' above 1"),
        (False, "no value can satisfy it"),
    ],
)
def test_what_a_grammar_cannot_guarantee_is_refused_by_name(schema: Any, told: str) -> None:
    with pytest.raises(SchemaNotSupported) as refusal:
        schema_grammar(schema, 200)
    assert told in str(refusal.value)


def test_a_refusal_says_where() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "items": {"not": {}}}}}
    with pytest.raises(SchemaNotSupported) as refusal:
        read_schema(schema)
    assert refusal.value.path == "/properties/a/items"


def test_a_bomb_of_references_is_refused() -> None:
    defs = {"d0": {"type": "string"}} | {
        f"d{level}": {
            "type": "object",
            "properties": {name: {"$ref": f"#/$defs/d{level - 1}"} for name in "abcdefgh"},
            "required": ["a"],
        }
        for level in range(1, 8)
    }
    with pytest.raises(SchemaNotSupported, match="too large"):
        read_schema({"$ref": "#/$defs/d7", "$defs": defs})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/n", "$defs": {"n": {"$ref": "#/$defs/n"}}},
        {"allOf": [{"$ref": "#"}]},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
    ],
)
def test_a_schema_that_never_ends_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaNotSupported):
        read_schema(schema)


def test_recursion_is_unrolled_until_it_may_stop() -> None:
    node = {
        "type": "object",
        "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["v", "next"],
    }
    source = random.Random(1)
    for _ in range(20):
        document = random_document(schema_grammar(node, 400), source, 2400)
        assert document is not None
        jsonschema.validate(json.loads(document), node)


def test_options_told_apart_by_a_constant_are_exclusive() -> None:
    def option(kind: str) -> dict[str, Any]:
        return {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}

    assert schema_grammar({"oneOf": [option("a"), option("b")]}, 200)
    with pytest.raises(SchemaNotSupported, match="may overlap"):
        read_schema({"oneOf": [option("a"), option("a")]})


def test_all_of_becomes_one() -> None:
    merged = merge(
        {"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]},
        {"properties": {"a": {"type": "integer", "minimum": 2}, "b": {}}, "required": ["b"]},
        "",
    )
    assert merged == {
        "type": "object",
        "properties": {"a": {"type": ["integer"], "minimum": 2}, "b": {}},
        "required": ["a", "b"],
    }


@pytest.mark.parametrize("seed", range(40))
def test_what_is_merged_satisfies_every_part(seed: int) -> None:
    """Parts of few names, so that they meet; refusing the combination is right, too."""
    source = random.Random(seed)
    parts = [random_schema(source, depth=1) for _ in range(2)]
    for part in parts:
        part.pop("$defs", None)
        renamed = {
            name: part["properties"][key] for name, key in zip("abc", part["properties"], strict=False)
        }
        renamed.pop("part", None)
        part["properties"] = {
            name: {} if "$ref" in str(member) else member for name, member in renamed.items()
        }
        part["required"] = [name for name in part["properties"] if source.random() < 0.4]
        if source.random() < 0.3:
            part["additionalProperties"] = {"type": "string"}
    schema = {"allOf": parts} if seed % 2 else {**parts[0], "anyOf": [parts[1], {"required": ["a"]}]}
    try:
        grammar = schema_grammar(schema, 400)
    except SchemaNotSupported:
        return
    for _ in range(6):
        document = random_document(grammar, source, 2400)
        assert document is not None
        jsonschema.Draft202012Validator(schema).validate(json.loads(document))


def test_places_before_and_after_a_prefix_are_not_mixed_up() -> None:
    with pytest.raises(SchemaNotSupported, match="prefixItems"):
        read_schema({"allOf": [{"prefixItems": [{}, {}]}, {"items": {"type": "string"}}]})


def test_a_grammar_of_the_client_is_compiled_before_it_is_sent() -> None:
    check_grammar('root ::= "yes" | "no"')
    check_grammar('%llguidance {}\nstart: "yes"')
    with pytest.raises(SchemaNotSupported, match="unknown name"):
        check_grammar("%llguidance {}\nstart: missing")
