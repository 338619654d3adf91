"""From requests to calls of engines, and from their answers back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.model.engines.base import Capabilities
from services.model.protocol.answers import LegacyLogprobs, add_usage, merge_answers
from services.model.protocol.events import DoneWatcher, EventReader
from services.model.protocol.failures import from_engine
from services.model.protocol.plan import parse, plan_chat, plan_completion
from services.model.protocol.requests import ChatRequest, CompletionRequest, EmbeddingRequest
from shared.problems import BadRequest, Problem

LLAMA = Capabilities(
    chat=True, completions=True, native=False,
    grammar="llamacpp", context_length=2048,
)  # fmt: skip
VLLM = Capabilities(chat=True, completions=True, grammar="vllm", context_length=2048)
HOSTED = Capabilities(chat=True, completions=True)
MESSAGES = [{"role": "user", "content": "Why is the sky blue?"}]


def chat(capabilities: Capabilities = LLAMA, **fields: Any) -> tuple[Any, list[dict[str, Any]]]:
    body = json.dumps({"model": "default", "messages": MESSAGES} | fields).encode()
    plan = plan_chat(parse(ChatRequest, body), body, "engine-name", capabilities)
    return plan, [json.loads(call) for call in plan.bodies]


def complete(**fields: Any) -> tuple[Any, list[dict[str, Any]]]:
    body = json.dumps({"model": "default", "prompt": "The sky"} | fields).encode()
    plan = plan_completion(parse(CompletionRequest, body), body, "engine-name", LLAMA)
    return plan, [json.loads(call) for call in plan.bodies]


def test_a_plain_question_is_passed_on_unread() -> None:
    plan, calls = chat(max_tokens=5, temperature=0.5, stream=True, user="someone", metadata={"a": "b"})
    assert plan.raw
    assert calls == [
        {
            "messages": MESSAGES, "max_tokens": 5, "temperature": 0.5, "stream": True,
            "stream_options": {"include_usage": False},
        }
    ]  # fmt: skip


@pytest.mark.parametrize("capabilities", [VLLM, HOSTED])
def test_an_engine_that_speaks_the_protocol_gets_the_body_as_it_came(capabilities: Capabilities) -> None:
    plan, calls = chat(capabilities, n=2, tools=[], vendor_field={"x": 1}, max_completion_tokens=9)
    assert plan.raw
    assert calls == [
        {
            "model": "engine-name", "messages": MESSAGES, "n": 2, "tools": [], "vendor_field": {"x": 1},
            "max_completion_tokens": 9,
        }
    ]  # fmt: skip


def test_choices_become_calls_with_seeds_of_their_own() -> None:
    plan, calls = chat(n=3, seed=-1)
    assert not plan.raw
    assert [call["seed"] for call in calls] == [0xFFFFFFFE, 0, 1]
    assert all(call["cache_prompt"] is False for call in calls)
    plan, calls = complete(prompt=["a", "b"], n=2)
    assert [call["prompt"] for call in calls] == ["a", "a", "b", "b"]
    assert plan.choices_each == 2


def test_a_stream_of_choices_asks_for_usage_itself() -> None:
    plan, calls = chat(n=2, stream=True)
    assert not plan.include_usage
    assert all(call["stream_options"] == {"include_usage": True} for call in calls)


def test_a_schema_becomes_a_grammar_that_fits_the_tokens() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    _, calls = chat(response_format=form, max_tokens=100)
    assert '"maxLength":91' in calls[0]["grammar"]
    _, calls = chat(json_schema=schema)
    assert '"maxLength":1969' in calls[0]["grammar"]
    _, calls = chat(VLLM, json_schema=schema)
    assert calls[0]["response_format"]["json_schema"]["schema"] == schema


def test_a_grammar_goes_where_the_engine_wants_it() -> None:
    grammar = 'root ::= "yes"'
    assert chat(grammar=grammar)[1][0]["grammar"] == grammar
    assert chat(VLLM, grammar=grammar)[1][0]["structured_outputs"] == {"grammar": grammar}
    with pytest.raises(BadRequest, match="does not take a grammar"):
        chat(HOSTED, grammar=grammar)


@pytest.mark.parametrize("capabilities", [LLAMA, VLLM])
def test_a_schema_nobody_can_enforce_is_refused_for_every_local_engine(capabilities: Capabilities) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    with pytest.raises(BadRequest) as refusal:
        chat(capabilities, response_format=form)
    error = refusal.value.openai_document()["error"]
    assert (error["param"], error["code"]) == ("response_format", "invalid_json_schema")


TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def test_tools_are_described_only_when_they_may_be_called() -> None:
    _, calls = chat(tools=[TOOL])
    assert "You can call functions" in calls[0]["messages"][0]["content"]
    assert "grammar" in calls[0]
    _, calls = chat(tools=[TOOL], tool_choice="none")
    assert calls[0]["messages"] == MESSAGES
    assert "grammar" not in calls[0]
    other = {"type": "function", "function": {"name": "g"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    for choice in (
        {"type": "function", "function": {"name": "g"}},
        {"type": "allowed_tools", "allowed_tools": allowed},
    ):
        _, calls = chat(tools=[TOOL, other], tool_choice=choice)
        assert "- g" in calls[0]["messages"][0]["content"]
        assert "- f" not in calls[0]["messages"][0]["content"]
        assert "other:" not in calls[0]["grammar"]


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"temperature": 2.5}, "temperature", "less than or equal to 2"),
        ({"temperature": "1"}, "temperature", "valid number"),
        ({"top_p": -0.1}, "top_p", "greater than or equal to 0"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"n": 1000}, "n", "less than or equal to 16"),
        ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
        ({"presence_penalty": 3}, "presence_penalty", "less than or equal to 2"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x", "pattern"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "alien", "content": "x"}]}, "messages.0.role", "'system'"),
        ({"messages": [{"role": "user"}]}, "messages.0", "needs content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0", "needs tool_call_id"),
        ({"top_logprobs": 3}, None, "top_logprobs needs logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
        ({"stream_options": {"include_usage": True}}, None, "only allowed when stream is true"),
        ({"tool_choice": "required"}, None, "tool_choice needs tools"),
        ({"tools": [TOOL, TOOL]}, None, "distinct names"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            None,
            "names 'g', which is not among the tools",
        ),
        ({"response_format": {"type": "xml"}}, "response_format", "json_object"),
        ({"grammar": "x", "json_schema": {}}, None, "only one of"),
        ({"stop": [""]}, "stop", "at least 1 character"),
        ({"no_such_field": 1}, "no_such_field", "Unrecognized request argument"),
    ],
)
def test_every_parameter_is_checked(fields: dict[str, Any], param: str | None, told: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        chat(**fields)
    error = refusal.value.openai_document()["error"]
    assert error["type"] == "invalid_request_error"
    assert told in error["message"]
    if param is not None:
        assert error["param"].startswith(param)


def test_text_completions_refuse_what_they_cannot_do() -> None:
    for fields, told in (
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"echo": True, "prompt": [1, 2]}, "echo"),
        ({"prompt": []}, "prompt"),
    ):
        with pytest.raises(BadRequest, match=told):
            complete(**fields)


def test_completions_have_sixteen_tokens_unless_told() -> None:
    assert complete()[1][0]["max_tokens"] == 16
    assert complete(prompt=[1, 2, 3])[1][0]["prompt"] == [1, 2, 3]


def test_embedding_inputs_are_always_a_list() -> None:
    for given, expected in (
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2]], [[1], [2]]),
    ):
        body = json.dumps({"model": "embed", "input": given}).encode()
        assert parse(EmbeddingRequest, body).inputs() == expected
    wrong: list[Any] = ["", [], [""], [[]], [1.5], None]
    for refused in wrong:
        with pytest.raises(BadRequest):
            parse(EmbeddingRequest, json.dumps({"model": "embed", "input": refused}).encode())


def test_a_prompt_counts_once_for_all_its_choices() -> None:
    usage = {"prompt_tokens": 10, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
    summed = add_usage([usage, usage, usage, usage], choices_each=2)
    assert (summed["prompt_tokens"], summed["completion_tokens"], summed["total_tokens"]) == (20, 12, 32)
    assert summed["prompt_tokens_details"] == {"cached_tokens": 8}
    answers = [
        {"id": f"{index}", "choices": [{"index": 0, "text": str(index)}], "usage": usage} for index in (0, 1)
    ]
    merged = merge_answers(answers, 2)
    assert [(choice["index"], choice["text"]) for choice in merged["choices"]] == [(0, "0"), (1, "1")]
    assert merged["id"] == "0"


def test_log_probabilities_in_their_old_shape() -> None:
    content = [
        {"token": " a", "logprob": -0.5, "top_logprobs": [{"token": " the", "logprob": -0.4}]},
        {"token": "b", "logprob": -1.0, "top_logprobs": []},
    ]
    old = LegacyLogprobs(1).translate({"content": content})
    assert old == {
        "tokens": [" a", "b"],
        "token_logprobs": [-0.5, -1.0],
        "top_logprobs": [{" the": -0.4, " a": -0.5}, {"b": -1.0}],
        "text_offset": [0, 2],
    }
    assert LegacyLogprobs(0).translate(None) is None


def test_events_may_be_cut_anywhere() -> None:
    stream = (
        b': comment\n\ndata: {"a":1}\n\nevent: x\ndata: {"b":\ndata: 2}\n\n'
        b'data: {"usage":{"completion_tokens":7}}\n\ndata: [DONE]\n\n'
    )
    expected = [b'{"a":1}', b'{"b":\n2}', b'{"usage":{"completion_tokens":7}}', b"[DONE]"]
    for size in range(1, len(stream) + 1):
        reader, watcher, got = EventReader(), DoneWatcher(), []
        for start in range(0, len(stream), size):
            piece = stream[start : start + size]
            got += list(reader.feed(piece))
            watcher.feed(piece)
        assert got == expected
        assert watcher.done
        assert watcher.tokens == 7
    watcher = DoneWatcher()
    watcher.feed(b'data: {"content": "[DONE]')
    assert not watcher.done
    assert watcher.tokens == 0


TOO_LONG = (400, "context_length_exceeded")
VLLM_TOO_LONG = "This model's maximum context length is 2048 tokens."


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (400, {"type": "exceed_context_size_error", "message": "too big"}, TOO_LONG),
        (400, {"message": VLLM_TOO_LONG}, TOO_LONG),
        (400, {"message": "no", "param": "top_p", "code": 400}, (400, "invalid_request")),
        (404, {"message": "lost"}, (400, "invalid_request")),
        (429, {"message": "slow down"}, (503, "engine_unavailable")),
        (401, {"message": "bad key sk-123"}, (502, "engine_failed")),
        (500, "boom", (502, "engine_failed")),
    ],
)
def test_errors_of_engines_in_the_words_of_openai(status: int, error: Any, expected: tuple[int, str]) -> None:
    problem: Problem = from_engine(status, json.dumps({"error": error}).encode(), "messages")
    document = problem.openai_document()["error"]
    assert (problem.status, document["code"]) == expected
    assert "sk-123" not in document["message"]
    assert set(document) == {"message", "type", "param", "code"}


def test_errors_that_are_not_json() -> None:
    assert from_engine(502, b"<html>", "prompt").status == 502
    assert "plain text" in from_engine(400, b"plain text", "prompt").detail
