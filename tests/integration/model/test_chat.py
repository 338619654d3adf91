"""OpenAI's protocol with the stock client and a real model."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types.chat import ChatCompletionToolParam

from services.model.encoder.encoder import EncoderFiles, SentenceEncoder
from services.model.engines.encoder import packaged_encoder
from tests.integration.model.conftest import MODEL, RunningService

ASK: Any = [{"role": "user", "content": "Why is the sky blue?"}]
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "the current weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    },
}


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="default", messages=ASK, max_tokens=8, temperature=0)
    assert answer.model == MODEL
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_a_stream_is_the_answer_in_pieces(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="default", messages=ASK, max_tokens=8, temperature=0)
    stream = client.chat.completions.create(
        model=MODEL,
        messages=ASK,
        max_tokens=8,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


def test_without_asking_no_chunk_carries_usage(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model="default", messages=ASK, max_tokens=2, stream=True)
    assert all(chunk.usage is None and chunk.choices for chunk in stream)


def test_several_choices_differ_and_are_all_counted(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=6, n=3, temperature=1, seed=5
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) > 1
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 18
    single = client.chat.completions.create(model="default", messages=ASK, max_tokens=1)
    assert single.usage is not None
    assert answer.usage.prompt_tokens == single.usage.prompt_tokens


def test_several_choices_in_one_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=4, n=2, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    for index in (0, 1):
        mine = [chunk.choices[0] for chunk in chunks if chunk.choices and chunk.choices[0].index == index]
        assert "".join(choice.delta.content or "" for choice in mine)
        assert mine[-1].finish_reason == "length"
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 8


def test_the_same_seed_gives_the_same_answer(client: openai.OpenAI) -> None:
    def answer(seed: int) -> str | None:
        reply = client.chat.completions.create(
            model="default", messages=ASK, max_tokens=6, temperature=1, seed=seed
        )
        return reply.choices[0].message.content

    assert answer(7) == answer(7)
    assert len({answer(seed) for seed in (7, 8, 9)}) > 1


def test_stop_ends_the_answer_before_the_word(client: openai.OpenAI) -> None:
    full = client.chat.completions.create(model="default", messages=ASK, max_tokens=20, temperature=0)
    words = (full.choices[0].message.content or "").split()
    stopped = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=20, temperature=0, stop=[words[4], "never"]
    )
    assert stopped.choices[0].finish_reason == "stop"
    assert words[4] not in (stopped.choices[0].message.content or "").split()


def test_penalties_and_biases_change_the_answer(client: openai.OpenAI) -> None:
    def answer(**parameters: Any) -> object:
        reply = client.chat.completions.create(
            model="default", messages=ASK, max_tokens=6, temperature=0, **parameters
        )
        return reply.choices[0].message.content

    plain = answer()
    logprobs = (
        client.chat.completions.create(
            model="default", messages=ASK, max_tokens=1, temperature=0, logprobs=True
        )
        .choices[0]
        .logprobs
    )
    assert logprobs is not None
    assert logprobs.content is not None
    assert logprobs.content[0].top_logprobs == []
    first = logprobs.content[0].model_dump()["id"]
    assert answer(logit_bias={str(first): -100}) != plain
    assert answer(presence_penalty=2, frequency_penalty=2) is not None


def test_log_probabilities(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=3, temperature=0, logprobs=True, top_logprobs=4
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == answer.choices[0].message.content
    for token in logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 4
        # Greedy: the token taken is the likeliest.
        assert token.top_logprobs[0].token == token.token


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_a_call_that_must_come_comes(client: openai.OpenAI, choice: Any) -> None:
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice=choice,
        max_tokens=60,
    )
    assert answer.choices[0].finish_reason == "tool_calls"
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].type == "function"
    assert calls[0].function.name == "get_weather"
    assert json.loads(calls[0].function.arguments).keys() == {"city", "unit"}


def test_a_call_streams_as_deltas(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "What is the weather in Paris?"}],
        tools=[WEATHER],
        tool_choice="required",
        max_tokens=60,
        stream=True,
    )
    choices = [chunk.choices[0] for chunk in stream]
    calls = [call for choice in choices for call in choice.delta.tool_calls or []]
    assert calls[0].function is not None
    assert calls[0].function.name == "get_weather"
    assert calls[0].id
    arguments = "".join(call.function.arguments or "" for call in calls if call.function)
    assert json.loads(arguments)["unit"] in ("C", "F")
    assert choices[-1].finish_reason == "tool_calls"


def test_a_model_may_answer_or_call_and_never_calls_when_forbidden(client: openai.OpenAI) -> None:
    for choice in ("auto", "none"):
        answer = client.chat.completions.create(
            model="default", messages=ASK, tools=[WEATHER], tool_choice=choice, max_tokens=20
        )
        message = answer.choices[0].message
        assert (message.content is None) == (message.tool_calls is not None)
        assert choice == "auto" or message.tool_calls is None


def test_the_result_of_a_call_goes_back_in(client: openai.OpenAI) -> None:
    call: Any = {"id": "call_1", "type": "function"}
    call["function"] = {"name": "get_weather", "arguments": '{"city":"Paris","unit":"C"}'}
    answer = client.chat.completions.create(
        model="default",
        messages=[
            {"role": "user", "content": "What is the weather in Paris?"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees and raining"},
        ],
        tools=[WEATHER],
        tool_choice="none",
        max_tokens=8,
    )
    assert answer.choices[0].message.content


def test_a_json_object_is_one(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Describe a dog as JSON."}],
        response_format={"type": "json_object"},
        max_tokens=60,
    )
    document = json.loads(answer.choices[0].message.content or "")
    assert isinstance(document, dict)
    assert document


def test_a_grammar_of_ours_is_followed(client: openai.OpenAI) -> None:
    grammar = 'root ::= "SELECT " ("a" | "b") " FROM t"'
    answer = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=20, extra_body={"grammar": grammar}
    )
    assert answer.choices[0].message.content in ("SELECT a FROM t", "SELECT b FROM t")


def test_text_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="default", prompt="The sky is", max_tokens=3, temperature=0, logprobs=2, n=2
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.tokens is not None
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset is not None
    assert choice.logprobs.text_offset[0] == 0
    assert choice.logprobs.top_logprobs is not None
    assert all(
        token in top for token, top in zip(choice.logprobs.tokens, choice.logprobs.top_logprobs, strict=True)
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


def test_several_prompts_with_an_echo(client: openai.OpenAI) -> None:
    prompts = ["The sky is", "One, two,"]
    answer = client.completions.create(model="default", prompt=prompts, max_tokens=2, echo=True)
    for choice, prompt in zip(answer.choices, prompts, strict=True):
        assert choice.text.startswith(prompt)
        assert len(choice.text) > len(prompt)
    stream = client.completions.create(model="default", prompt=prompts, max_tokens=2, echo=True, stream=True)
    texts = {0: "", 1: ""}
    for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert [texts[index].startswith(prompt) for index, prompt in enumerate(prompts)] == [True, True]


def test_embeddings_are_those_of_the_encoder(client: openai.OpenAI, tmp_path: Any) -> None:
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    answer = client.embeddings.create(model="embed", input=texts)
    encoder = SentenceEncoder(EncoderFiles(packaged_encoder()), tmp_path, threads=1)
    expected, tokens = encoder.encode(texts)
    got = np.array([item.embedding for item in answer.data])
    assert np.allclose(got, expected, atol=1e-5)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)
    assert answer.model == "all-minilm-l6-v2"


def test_embeddings_in_every_form(service: RunningService) -> None:
    with service.http() as http:

        def embed(**fields: Any) -> Any:
            answer = http.post("/v1/embeddings", json={"model": "embed", "input": "a day"} | fields)
            assert answer.status_code == 200, answer.text
            return answer.json()["data"][0]["embedding"]

        floats = np.array(embed(), dtype=np.float32)
        packed = np.frombuffer(base64.b64decode(embed(encoding_format="base64")), dtype="<f4")
        assert floats.shape == (384,)
        assert np.allclose(floats, packed, atol=1e-7)
        short = np.array(embed(dimensions=32))
        assert np.allclose(short, floats[:32] / np.linalg.norm(floats[:32]), atol=1e-6)


def test_models(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[:2] == ["default", "embed"]
    assert {MODEL, "all-minilm-l6-v2", "hosted"} <= set(names)
    assert client.models.retrieve(MODEL).owned_by == "llamacpp"
    with pytest.raises(openai.NotFoundError) as refusal:
        client.models.retrieve("no/such")
    assert refusal.value.code == "model_not_found"


TOO_LONG: Any = {"messages": [{"role": "user", "content": "word " * 3000}]}
NO_SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}


@pytest.mark.parametrize(
    ("call", "status", "code", "param"),
    [
        (TOO_LONG, 400, "context_length_exceeded", "messages"),
        (TOO_LONG | {"stream": True}, 400, "context_length_exceeded", "messages"),
        ({"model": "gpt-99"}, 404, "model_not_found", "model"),
        ({"model": "embed"}, 400, "unsupported_parameter", "model"),
        ({"temperature": 9}, 400, "bad_request", "temperature"),
        ({"messages": []}, 400, "bad_request", "messages"),
        ({"grammar": "root = nonsense"}, 400, "invalid_request", None),
        ({"response_format": NO_SCHEMA}, 400, "invalid_json_schema", "response_format"),
    ],
)
def test_errors_are_those_the_client_expects(
    client: openai.OpenAI, call: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    body = {"model": "default", "messages": ASK, "max_tokens": 4} | call
    with pytest.raises(openai.APIStatusError) as refusal:
        client.post("/chat/completions", body=body, cast_to=object)
    assert (refusal.value.status_code, refusal.value.code, refusal.value.param) == (status, code, param)
    assert refusal.value.type in ("invalid_request_error", "server_error")
    assert refusal.value.message


def test_embedding_errors(client: openai.OpenAI) -> None:
    for body, code in (
        ({"input": "word " * 600}, "context_length_exceeded"),
        ({"input": [[99999]]}, "bad_request"),
        ({"input": "x", "dimensions": 385}, "unsupported_parameter"),
        ({"input": []}, "bad_request"),
        ({"model": "default", "input": "x"}, "unsupported_parameter"),
    ):
        with pytest.raises(openai.BadRequestError) as refusal:
            client.post("/embeddings", body={"model": "embed"} | body, cast_to=object)
        assert refusal.value.code == code


def test_a_body_that_is_no_json_is_a_400(service: RunningService) -> None:
    with service.http() as http:
        for content in (b"", b"{", b"[]", b"null", b'{"model": "\xff"}'):
            answer = http.post(
                "/v1/chat/completions", content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 400, content
            assert answer.json()["error"]["type"] == "invalid_request_error"


def test_only_principals_with_the_scope_may_ask(service: RunningService) -> None:
    body = {"model": "default", "messages": ASK, "max_tokens": 1}

    def status(token: str | None) -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.post(f"{service.url}/v1/chat/completions", json=body, headers=headers).status_code

    assert status(None) == 401
    assert status("forged") == 401
    assert status(service.token("acme", audience="sql")) == 401
    assert status(service.token("acme", "sql")) == 403
    assert status(service.token("acme", "model", lifetime=-10)) == 401
    replayed = {"Authorization": f"Bearer {service.token()}", "Lattice-Tenant": "rival"}
    answer = httpx.post(f"{service.url}/v1/chat/completions", json=body, headers=replayed)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "tenant_mismatch")
    assert status(service.token("acme", "model")) == 200
