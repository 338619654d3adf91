"""The stock `openai` client against the gateway and the real embedded model."""

from __future__ import annotations

import json
import math
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.e2e.openai_client.schemas import random_schema

SKY: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Why is the sky blue?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def test_models(openai_client: openai.OpenAI) -> None:
    names = [model.id for model in openai_client.models.list()]
    assert {"default", "embed"} <= set(names)
    assert openai_client.models.retrieve("default").object == "model"


def test_chat(openai_client: openai.OpenAI) -> None:
    reply = openai_client.chat.completions.create(model="default", messages=SKY, max_tokens=24, temperature=0)
    choice = reply.choices[0]
    assert choice.message.role == "assistant"
    assert len((choice.message.content or "").split()) > 5
    assert choice.finish_reason == "length"
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 24
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + 24


def test_a_seed_repeats(openai_client: openai.OpenAI) -> None:
    texts = {
        openai_client.chat.completions.create(
            model="default", messages=SKY, max_tokens=12, temperature=1.0, seed=7
        )
        .choices[0]
        .message.content
        for _ in range(2)
    }
    assert len(texts) == 1


def test_stream_agrees_with_the_whole_and_ends_with_usage(openai_client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "default", "messages": SKY, "max_tokens": 16, "temperature": 0}
    whole = openai_client.chat.completions.create(**options).choices[0].message.content
    text, usages, reasons = "", [], []
    for chunk in openai_client.chat.completions.create(
        **options, stream=True, stream_options={"include_usage": True}
    ):
        usages += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            text += choice.delta.content or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert text == whole
    assert reasons == ["length"]
    assert [usage.completion_tokens for usage in usages] == [16]


def test_a_stream_without_the_option_has_no_usage_chunk(openai_client: openai.OpenAI) -> None:
    chunks = list(
        openai_client.chat.completions.create(model="default", messages=SKY, max_tokens=4, stream=True)
    )
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.choices for chunk in chunks)


def test_several_choices(openai_client: openai.OpenAI) -> None:
    reply = openai_client.chat.completions.create(
        model="default", messages=SKY, max_tokens=8, n=3, temperature=1.0, seed=1
    )
    assert [choice.index for choice in reply.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in reply.choices}) > 1
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 24


def test_stop_words(openai_client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "default", "messages": SKY, "max_tokens": 24, "temperature": 0}
    whole = openai_client.chat.completions.create(**options).choices[0].message.content or ""
    word = whole.split()[4]
    cut = openai_client.chat.completions.create(**options, stop=[word]).choices[0]
    assert cut.finish_reason == "stop"
    assert cut.message.content == whole[: whole.index(word)]


def test_logprobs(openai_client: openai.OpenAI) -> None:
    reply = openai_client.chat.completions.create(
        model="default", messages=SKY, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3
    )
    logprobs = reply.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content) == 4
    for token in logprobs.content:
        assert len(token.top_logprobs) == 3
        assert token.logprob == pytest.approx(max(top.logprob for top in token.top_logprobs), abs=1e-4)
        assert sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1.0001


def test_text_completions(openai_client: openai.OpenAI) -> None:
    reply = openai_client.completions.create(
        model="default", prompt="Once upon a time", max_tokens=8, temperature=0
    )
    assert reply.object == "text_completion"
    assert reply.choices[0].text.strip()
    streamed = openai_client.completions.create(
        model="default", prompt="Once upon a time", max_tokens=8, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == reply.choices[0].text


def test_a_required_tool_is_called_with_valid_arguments(openai_client: openai.OpenAI) -> None:
    reply = openai_client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=100,
        temperature=0,
    )
    choice = reply.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    call = choice.message.tool_calls[0]
    assert call.type == "function"
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), dict(WEATHER["function"]["parameters"]))


def test_a_tool_result_goes_back(openai_client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "What is the weather in Paris?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 degrees"},
    ]
    reply = openai_client.chat.completions.create(
        model="default", messages=messages, tools=[WEATHER], tool_choice="none", max_tokens=16, temperature=0
    )
    assert reply.choices[0].message.content
    assert not reply.choices[0].message.tool_calls


def test_streamed_tool_calls(openai_client: openai.OpenAI) -> None:
    name, arguments, reasons = "", "", set()
    for chunk in openai_client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "get_weather"}},
        max_tokens=100,
        temperature=0,
        stream=True,
    ):
        for choice in chunk.choices:
            reasons.add(choice.finish_reason)
            for call in choice.delta.tool_calls or []:
                name += (call.function and call.function.name) or ""
                arguments += (call.function and call.function.arguments) or ""
    assert name == "get_weather"
    assert set(json.loads(arguments)) == {"city"}
    assert "tool_calls" in reasons


def test_json_object(openai_client: openai.OpenAI) -> None:
    reply = openai_client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Describe a cat as JSON with name and age."}],
        response_format={"type": "json_object"},
        max_tokens=400,
        temperature=0,
    )
    assert isinstance(json.loads(reply.choices[0].message.content or ""), dict)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "seeds", [range(25), pytest.param(range(25, 100), marks=pytest.mark.slow)], ids=["first", "rest"]
)
def test_a_hundred_random_schemas_are_all_obeyed(openai_client: openai.OpenAI, seeds: range) -> None:
    for seed in seeds:
        schema = random_schema(seed)
        reply = openai_client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": "Invent an example record."}],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "record", "schema": schema, "strict": True},
            },
            max_tokens=600,
            temperature=1.0,
            seed=seed,
        )
        content = reply.choices[0].message.content or ""
        assert reply.choices[0].finish_reason == "stop", (seed, schema, content)
        jsonschema.validate(json.loads(content), schema)


def test_embeddings(openai_client: openai.OpenAI) -> None:
    texts = ["The cat sits on the mat.", "A kitten is resting on a rug.", "Interest rates rose again."]
    reply = openai_client.embeddings.create(model="embed", input=texts)
    vectors = [item.embedding for item in reply.data]
    assert [item.index for item in reply.data] == [0, 1, 2]
    assert [len(vector) for vector in vectors] == [384] * 3

    def cosine(left: list[float], right: list[float]) -> float:
        return sum(a * b for a, b in zip(left, right, strict=True))

    assert cosine(vectors[0], vectors[0]) == pytest.approx(1.0, abs=1e-3)
    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2]) + 0.3
    assert reply.usage.prompt_tokens > 10


@pytest.mark.parametrize(
    ("options", "kind", "code"),
    [
        ({"model": "no-such-model"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 9.0}, openai.BadRequestError, None),
        ({"max_tokens": -1}, openai.BadRequestError, None),
        ({"messages": []}, openai.BadRequestError, None),
        (
            {"messages": [{"role": "user", "content": "word " * 20000}]},
            openai.BadRequestError,
            "context_length_exceeded",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"type": "nonsense"}},
                }
            },
            openai.BadRequestError,
            None,
        ),
    ],
)
def test_errors_are_the_ones_the_client_knows(
    openai_client: openai.OpenAI, options: dict[str, Any], kind: type[openai.APIStatusError], code: str | None
) -> None:
    request: dict[str, Any] = {"model": "default", "messages": SKY, "max_tokens": 4, **options}
    with pytest.raises(kind) as caught:
        openai_client.chat.completions.create(**request)
    assert caught.value.message
    if code is not None:
        assert caught.value.code == code


def test_a_wrong_key_is_an_authentication_error(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        openai_client.with_options(api_key="lw_wrong").models.list()
    assert caught.value.code == "invalid_api_key"
