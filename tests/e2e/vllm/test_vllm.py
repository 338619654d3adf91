"""The vLLM engine against a real vLLM on the CPU: `make test-vllm`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import psutil
import pytest

from tests.e2e.vllm.conftest import MODEL, engine, wait_for
from tests.integration.model.conftest import RunningService

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(3600)]

ASK: Any = [{"role": "user", "content": "Why is the sky blue?"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "kind": {"enum": ["cat", "dog"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture
def client(vllm_service: RunningService) -> Iterator[openai.OpenAI]:
    with vllm_service.openai() as made:
        yield made.with_options(timeout=300)


def test_the_engine_tells_what_it_is(vllm_service: RunningService, client: openai.OpenAI) -> None:
    body = engine(vllm_service)
    assert body["models"] == [MODEL]
    assert body["capabilities"]["context_length"] == 2048
    assert [model.id for model in client.models.list()] == ["default", MODEL]


def test_chat_and_stream(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model="default", messages=ASK, max_tokens=8, temperature=0)
    assert whole.model == MODEL
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
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
    assert chunks[-1].usage is not None


def test_choices_seed_stop_and_log_probabilities(client: openai.OpenAI) -> None:
    several = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=5, n=2, temperature=1, seed=3
    )
    assert len(several.choices) == 2
    assert several.usage is not None
    assert several.usage.completion_tokens == 10
    again = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=5, n=2, temperature=1, seed=3
    )
    assert [choice.message.content for choice in again.choices] == [
        choice.message.content for choice in several.choices
    ]
    told = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=3, temperature=0, logprobs=True, top_logprobs=2
    )
    logprobs = told.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert all(len(token.top_logprobs) >= 2 for token in logprobs.content)


def test_schemas_and_grammars_are_enforced(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Invent a pet as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA}},
        max_tokens=120,
    )
    pet = json.loads(answer.choices[0].message.content or "")
    assert pet.keys() == {"name", "age", "kind"}
    assert pet["kind"] in ("cat", "dog")
    assert 0 <= pet["age"] <= 120
    chosen = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=8, extra_body={"grammar": 'root ::= "yes" | "no"'}
    )
    assert chosen.choices[0].message.content in ("yes", "no")
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(
            model="default", messages=ASK, extra_body={"json_schema": {"type": "object", "not": {}}}
        )
    assert refusal.value.code == "invalid_json_schema"


def test_text_completions(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="default", prompt=["The sky is", "One, two,"], max_tokens=3, logprobs=2, temperature=0
    )
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens is not None
    assert len(answer.choices[0].logprobs.tokens) == 3


def test_errors(client: openai.OpenAI) -> None:
    for body, code in (
        ({"messages": [{"role": "user", "content": "word " * 3000}]}, "context_length_exceeded"),
        ({"temperature": 9}, "bad_request"),
        ({"model": "gpt-99"}, "model_not_found"),
    ):
        with pytest.raises(openai.APIStatusError) as refusal:
            client.post(
                "/chat/completions", body={"model": "default", "messages": ASK} | body, cast_to=object
            )
        assert refusal.value.code == code


def test_its_metrics_are_in_ours(vllm_service: RunningService) -> None:
    with vllm_service.http("acme", "admin") as admin:
        deadline = time.monotonic() + 20
        while 'vllm:generation_tokens_total{engine="engine_vllm"' not in (page := admin.get("/metrics").text):
            assert time.monotonic() < deadline, page[-2000:]
            time.sleep(0.5)


def test_a_killed_worker_ends_the_stream_and_the_engine_comes_back(
    vllm_service: RunningService, client: openai.OpenAI
) -> None:
    stream = client.chat.completions.create(
        model="default", messages=ASK, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    pieces = iter(stream)
    for _ in range(3):
        next(pieces)
    leader = next(
        child
        for child in vllm_service.process.children(recursive=True)
        if "vllm.entrypoints" in " ".join(child.cmdline()) and "launch.py" not in " ".join(child.cmdline())
    )
    family = [leader, *leader.children(recursive=True)]
    leader.kill()
    with pytest.raises(openai.APIError) as failure:
        list(pieces)
    assert failure.value.code == "engine_failed"
    with pytest.raises(openai.APIStatusError) as down:
        client.chat.completions.create(model="default", messages=ASK, max_tokens=1)
    assert (down.value.status_code, down.value.code) == (503, "engine_unavailable")
    # Workers of the dead server would keep its memory.
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    assert wait_for(vllm_service, "ready")["restarts"] == 1
    answer = client.chat.completions.create(model="default", messages=ASK, max_tokens=2)
    assert answer.choices[0].message.content
