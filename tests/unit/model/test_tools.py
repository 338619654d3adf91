"""Tool calls written as text, and read back from streams cut anywhere."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.model.protocol.answers import ToolCallChunks, with_tool_calls
from services.model.protocol.nodes import SchemaNotSupported
from services.model.protocol.requests import FunctionDefinition, Message
from services.model.protocol.schema import read_schema
from services.model.protocol.tools import (
    CallStream,
    instructions,
    opening_of,
    parse_call,
    plain_messages,
    tools_grammar,
)
from tests.unit.model.random_schemas import random_document

WEATHER = FunctionDefinition(
    name="get_weather",
    description="the weather now",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city"],
    },
)
NOW = FunctionDefinition(name="now")


def test_a_required_call_is_always_a_call_with_valid_arguments() -> None:
    grammar = tools_grammar([WEATHER, NOW], 200, must=True, answer=None)
    source, called = random.Random(0), set()
    for _ in range(40):
        text = random_document(grammar, source, 3000)
        assert text is not None
        call = parse_call(text)
        assert call is not None
        called.add(call[0])
        arguments = json.loads(call[1])
        assert arguments.keys() <= {"city", "unit"} if call[0] == "get_weather" else arguments == {}
    assert called == {"get_weather", "now"}


def test_text_is_free_and_never_half_a_call() -> None:
    grammar = tools_grammar([WEATHER], 200, must=False, answer=None)
    source = random.Random(3)
    texts = [random_document(grammar, source, 3000) for _ in range(40)]
    assert any(text is None or parse_call(text) is None for text in texts)
    for text in texts:
        if text is not None and text.startswith("<tool_call>"):
            assert parse_call(text) is not None


def test_an_answer_of_json_may_stand_beside_the_calls() -> None:
    answer = read_schema({"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]})
    grammar = tools_grammar([NOW], 100, must=False, answer=answer)
    source = random.Random(2)
    texts = {random_document(grammar, source, 500) for _ in range(40)}
    assert texts == {'{"a":true}', '{"a":false}', opening_of("now") + "{}"}


def test_parameters_that_cannot_be_enforced_name_their_function() -> None:
    bad = FunctionDefinition(name="bad", parameters={"type": "object", "not": {}})
    with pytest.raises(SchemaNotSupported, match="tools/bad"):
        tools_grammar([WEATHER, bad], 200, must=True, answer=None)


@given(st.lists(st.integers(1, 30), max_size=20), st.booleans())
def test_a_stream_may_be_cut_anywhere(cuts: list[int], calls: bool) -> None:
    arguments = '{"city":"Paris <tool_call> \\"quoted\\""}'
    text = opening_of("get_weather") + arguments if calls else "<tooling> is not a call, nor is <tool_call>"
    deltas = deltas_of(text, cuts)
    if calls:
        pieces = [delta["tool_calls"][0] for delta in deltas]
        assert pieces[0]["function"]["name"] == "get_weather"
        assert pieces[0]["id"].startswith("call_")
        assert "".join(piece["function"]["arguments"] for piece in pieces) == arguments
        assert all("id" not in piece for piece in pieces[1:])
    else:
        assert "".join(delta["content"] for delta in deltas) == text


def deltas_of(text: str, cuts: list[int]) -> list[dict[str, Any]]:
    stream, deltas, position = CallStream(), [], 0
    for size in [*cuts, len(text)]:
        deltas += stream.feed(text[position : position + size])
        position += size
    return deltas + stream.finish()


def test_an_answer_cut_inside_the_head_of_a_call_is_given_as_text() -> None:
    assert deltas_of('<tool_call>{"na', [3]) == [{"content": '<tool_call>{"na'}]


def test_a_whole_answer_becomes_a_call() -> None:
    text = opening_of("now") + "{}"
    answer = {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]}
    choice = with_tool_calls(answer)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}


def test_a_stream_of_chunks_becomes_one_of_call_deltas() -> None:
    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"id": "x", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    transform = ToolCallChunks()
    sent = [chunk({"role": "assistant", "content": None}), chunk({"content": opening_of("now")})]
    sent += [chunk({"content": "{"}), chunk({"content": "}"}), chunk({}, "stop")]
    got = [piece["choices"][0] for one in sent for piece in transform(one)]
    assert got[0]["delta"] == {"role": "assistant"}
    assert [choice["finish_reason"] for choice in got] == [None] * (len(got) - 1) + ["tool_calls"]
    calls = [choice["delta"]["tool_calls"][0] for choice in got if "tool_calls" in choice["delta"]]
    assert "".join(call["function"]["arguments"] for call in calls) == "{}"


def test_past_calls_and_their_results_are_written_out() -> None:
    conversation = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather in Paris?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    ]
    messages = [Message.model_validate(message) for message in conversation]
    system = instructions([WEATHER], must=False)
    plain = plain_messages(messages, system)
    assert [message["role"] for message in plain] == ["system", "user", "assistant", "user"]
    assert plain[0]["content"].startswith("Be brief.\n\nYou can call functions.")
    assert "get_weather: the weather now" in plain[0]["content"]
    assert plain[2]["content"] == opening_of("get_weather") + "{}}"
    assert plain[3]["content"] == "Result of get_weather: sunny"


def test_a_picture_is_refused_by_a_model_that_reads_text() -> None:
    message = Message.model_validate(
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}
    )
    with pytest.raises(ValueError, match="message 0 has a part that is not text"):
        plain_messages([message], None)
