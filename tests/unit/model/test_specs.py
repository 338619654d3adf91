"""Descriptions of engines, and the command lines they become."""

from __future__ import annotations

from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry, generate_latest
from pydantic import ValidationError

from services.model.engines.base import EngineStartFailed, EngineState
from services.model.engines.llamacpp import LlamaCppEngine, default_threads
from services.model.engines.specs import LlamaCppSpec, UpstreamSpec, VllmSpec, spec_adapter
from services.model.engines.upstream import UpstreamEngine
from services.model.engines.vllm import VllmEngine
from services.model.metrics import EngineMetrics, ModelMetrics
from tests.unit.model.engines_scripted import ScriptedEngine


def test_vllm_gets_the_flags_an_operator_expects() -> None:
    spec = VllmSpec.model_validate(
        {
            "model": "big", "path": "/models/big", "dtype": "bfloat16", "tensor_parallel": 4,
            "context_length": 32768, "sequences": 64, "gpu_memory": 0.9, "quantization": "fp8",
            "adapters": [{"name": "acme", "path": "/adapters/acme"}], "adapter_rank": 32,
            "tool_parser": "hermes", "eager": True, "arguments": ["--enable-prefix-caching"],
        }
    )  # fmt: skip
    engine = VllmEngine(spec, Path("/opt/vllm/bin/python"))
    flags = " ".join(engine.arguments(8001))
    for expected in (
        "-m vllm.entrypoints.openai.api_server --host 127.0.0.1 --port 8001",
        "--model /models/big --served-model-name big --dtype bfloat16 --tensor-parallel-size 4",
        "--max-model-len 32768 --max-num-seqs 64 --gpu-memory-utilization 0.9 --quantization fp8",
        "--tool-call-parser hermes",
        "--enable-auto-tool-choice",
        '--enable-lora --lora-modules {"name": "acme", "path": "/adapters/acme", "base_model_name": "big"}',
        "--max-lora-rank 32",
        "--enforce-eager --enable-prefix-caching",
    ):
        assert expected in flags
    assert "--trust-remote-code" not in flags
    assert engine.models == ("big", "acme")


async def test_the_keys_of_engines_are_on_no_command_line(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.touch()
    vllm = VllmEngine(VllmSpec(model="m", path="p"), python)
    launch = vllm.prepare()
    key = launch.environment["VLLM_API_KEY"]
    assert key not in " ".join(launch.command)
    assert vllm.headers == ((b"authorization", b"Bearer " + key.encode()),)
    llama = LlamaCppEngine(LlamaCppSpec(model="m"))
    started = llama.prepare()
    (_, value) = llama.headers[0]
    secret = value.removeprefix(b"Bearer ")
    assert secret in started.stdin
    assert secret.decode() not in " ".join(started.command)


async def test_a_vllm_that_is_not_there_says_what_to_set(tmp_path: Path) -> None:
    engine = VllmEngine(VllmSpec(model="m", path="p"), tmp_path / "missing")
    with pytest.raises(EngineStartFailed, match="LATTICEWORK_MODEL_VLLM_PYTHON"):
        await engine.start()
    assert engine.state is EngineState.FAILED


@pytest.mark.parametrize(
    ("content", "told"), [(None, "cannot be read"), (b"PK\x03\x04", "is not a GGUF file")]
)
async def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    engine = LlamaCppEngine(LlamaCppSpec(model="m", path=path))
    with pytest.raises(EngineStartFailed, match=told):
        await engine.start()


def test_llama_leaves_a_core_to_the_others() -> None:
    assert default_threads() >= 1


@pytest.mark.parametrize(
    "spec",
    [
        {"kind": "torch", "model": "m"},
        {"kind": "llamacpp", "model": "m", "slots": 0},
        {"kind": "llamacpp", "model": "white space"},
        {"kind": "llamacpp", "model": "m", "no_such": 1},
        {"kind": "upstream", "base_url": "ftp://x/v1", "models": ["m"]},
        {"kind": "upstream", "base_url": "http://user:key@x/v1", "models": ["m"]},
        {"kind": "upstream", "base_url": "http://x/v1", "models": []},
        {"kind": "upstream", "base_url": "http://x/v1", "models": ["m"], "key_variable": "HOME"},
    ],
)
def test_descriptions_that_make_no_engine_are_refused(spec: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        spec_adapter.validate_python(spec)


async def test_an_upstream_without_its_key_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = UpstreamSpec.model_validate(
        {"base_url": "http://127.0.0.1:9/v1", "models": ["m"], "key_variable": "LATTICEWORK_MODEL_KEY_X"}
    )
    monkeypatch.delenv("LATTICEWORK_MODEL_KEY_X", raising=False)
    with pytest.raises(EngineStartFailed, match="LATTICEWORK_MODEL_KEY_X"):
        await UpstreamEngine(spec).start()
    monkeypatch.setenv("LATTICEWORK_MODEL_KEY_X", " secret \n")
    engine = UpstreamEngine(spec)
    await engine.start()
    assert engine.state is EngineState.RESTARTING
    assert engine.headers == ((b"authorization", b"Bearer secret"),)
    await engine.close()


class _Paged(ScriptedEngine):
    page = (
        "# HELP llm_tokens_total Tokens\n# TYPE llm_tokens_total counter\nllm_tokens_total 5\n"
        "# HELP llm_wait_seconds Wait\n# TYPE llm_wait_seconds histogram\n"
        'llm_wait_seconds_bucket{le="+Inf"} 2\n'
        "llm_wait_seconds_count 2\nllm_wait_seconds_sum 0.5\n"
    )

    async def metrics_text(self) -> str | None:
        return self.page


async def test_pages_of_engines_are_merged_into_ours() -> None:
    first, second = _Paged("a"), _Paged("b")
    for engine in (first, second):
        await engine.start()
    registry = CollectorRegistry()
    merged = EngineMetrics(lambda: {"engine_1": first, "engine_2": second})
    registry.register(merged)
    await merged.read()
    page = generate_latest(registry).decode()
    assert page.count("# TYPE llm_tokens_total counter") == 1
    assert 'llm_tokens_total{engine="engine_1"} 5.0' in page
    assert 'llm_wait_seconds_count{engine="engine_2"} 2.0' in page
    second.page = "not a page {"
    await merged.read()
    assert "engine_2" not in generate_latest(registry).decode()


def test_calls_are_timed_and_traced_with_their_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exported))
    monkeypatch.setattr("services.model.metrics.spans", provider.get_tracer("test"))
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry)
    with metrics.timer("chat", "m") as timer:
        timer.first_byte()
        timer.first_byte()
        timer.streamed(1)
        timer.streamed(3)
    with pytest.raises(ZeroDivisionError), metrics.timer("chat", "m"):
        raise ZeroDivisionError
    labels = {"gen_ai_operation_name": "chat", "gen_ai_response_model": "m"}
    name = "gen_ai_server_request_duration_seconds_count"
    assert registry.get_sample_value(name, labels | {"error_type": ""}) == 1
    assert registry.get_sample_value(name, labels | {"error_type": "ZeroDivisionError"}) == 1
    assert registry.get_sample_value("gen_ai_server_time_to_first_token_seconds_count", labels) == 1
    assert registry.get_sample_value("gen_ai_server_time_per_output_token_seconds_count", labels) == 1
    good, bad = exported.get_finished_spans()
    assert good.name == "chat m"
    assert dict(good.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m",
        "gen_ai.usage.output_tokens": 3,
    }
    assert bad.attributes is not None
    assert bad.attributes["error.type"] == "ZeroDivisionError"
    assert bad.status.status_code is StatusCode.ERROR
