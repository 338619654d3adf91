"""A hundred random JSON schemas, a real model of 135 M parameters, and every reply validates."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import openai
import pytest

from tests.integration.model.conftest import RunningService
from tests.unit.model.random_schemas import Schema, random_schema

TOKENS = 320


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seeds", [range(10), pytest.param(range(10, 100), marks=pytest.mark.slow)])
def test_every_reply_to_a_hundred_random_schemas_validates(service: RunningService, seeds: range) -> None:
    schemas = [random_schema(random.Random(seed), depth=2) for seed in seeds]
    with service.openai() as client, ThreadPoolExecutor(4) as pool:
        failures = [
            failure
            for failure in pool.map(lambda item: _ask(client, *item), zip(seeds, schemas, strict=True))
            if failure
        ]
    assert failures == []


def _ask(client: openai.OpenAI, index: int, schema: Schema) -> str | None:
    """Ask for a document of the schema; what is wrong with the reply, if anything."""
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": f"Invent record {index} as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "record", "schema": schema}},
        max_tokens=TOKENS,
        # From greedy, where small models repeat themselves, to hot, where they wander.
        temperature=(index % 4) / 3,
        seed=index,
    )
    reply = answer.choices[0].message.content or ""
    try:
        jsonschema.Draft202012Validator(schema).validate(json.loads(reply))
    except (ValueError, jsonschema.ValidationError) as error:
        return f"{schema} -> {reply!r}: {error}"
    return None if answer.choices[0].finish_reason == "stop" else f"{schema} -> cut off: {reply!r}"
