"""A supervised vLLM server. vLLM lives in an environment of its own; we know its command line only."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from services.model.engines.base import Capabilities, EngineStartFailed
from services.model.engines.specs import VllmSpec
from services.model.engines.supervised import Launch, RestartPolicy, SupervisedEngine, get_text
from shared.app import free_port
from shared.upstream import Upstream

LAUNCHER = Path(__file__).parent / "launch.py"
#: Weights, graph capture and kernel compilation of a large model take their time.
POLICY = RestartPolicy(
    first=1.0, longest=60.0, attempts=4, settled=120.0, ready_within=1800.0, probe_every=5.0
)


class VllmEngine(SupervisedEngine):
    """`python -m vllm.entrypoints.openai.api_server` with the flags of its description.

    `python` is the interpreter of vLLM's environment. The module is run rather than `vllm serve`,
    which asks for the metadata of a distribution named vllm and dies in builds of another name.
    """

    kind = "vllm"
    stop_seconds = 15.0

    def __init__(
        self, spec: VllmSpec, python: Path, *, queue: int = 256, policy: RestartPolicy = POLICY
    ) -> None:
        super().__init__(limit=(spec.sequences or 256) + queue, policy=policy)
        self.spec = spec
        self.python = python
        self._key = ""
        self._capabilities = Capabilities(
            chat=True,
            completions=True,
            grammar="vllm",
            context_length=spec.context_length,
        )

    @property
    def models(self) -> Sequence[str]:
        return (self.spec.model, *(adapter.name for adapter in self.spec.adapters))

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return ((b"authorization", b"Bearer " + self._key.encode()),)

    def prepare(self) -> Launch:
        if not self.python.is_file():
            raise EngineStartFailed(
                f"There is no Python with vLLM at {self.python}; "
                "set LATTICEWORK_MODEL_VLLM_PYTHON to the interpreter of its environment."
            )
        self._key = secrets.token_urlsafe(24)
        port = free_port()
        return Launch(
            # The launcher runs in vLLM's interpreter; it needs nothing but the standard library.
            command=(str(self.python), "-P", str(LAUNCHER), str(self.python), *self.arguments(port)),
            base_url=f"http://127.0.0.1:{port}",
            environment={
                "VLLM_API_KEY": self._key,
                "VLLM_NO_USAGE_STATS": "1",
                "DO_NOT_TRACK": "1",
                "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING"),
            },
        )

    def arguments(self, port: int) -> tuple[str, ...]:
        """vLLM's command line for our description."""
        return ("-m", "vllm.entrypoints.openai.api_server", *_flags(self.spec, port))

    async def answers(self, client: Upstream) -> bool:
        status, _ = await get_text(client, "/health")
        return status == 200

    async def on_ready(self, client: Upstream) -> None:
        status, body = await get_text(client, "/v1/models", self.headers)
        if status == 200:
            context = orjson.loads(body)["data"][0].get("max_model_len")
            self._capabilities = replace(self._capabilities, context_length=context)

    async def metrics_text(self) -> str | None:
        status, body = await get_text(self.client, "/metrics", self.headers)
        return body.decode() if status == 200 else None


def _flags(spec: VllmSpec, port: int) -> Iterator[str]:
    values: dict[str, str | int | float | None] = {
        "--host": "127.0.0.1",
        "--port": port,
        "--model": spec.path,
        "--served-model-name": spec.model,
        "--dtype": spec.dtype,
        "--tensor-parallel-size": spec.tensor_parallel,
        "--pipeline-parallel-size": spec.pipeline_parallel,
        "--max-model-len": spec.context_length,
        "--max-num-seqs": spec.sequences,
        "--gpu-memory-utilization": spec.gpu_memory,
        "--quantization": spec.quantization,
        "--max-lora-rank": spec.adapter_rank,
        "--tool-call-parser": spec.tool_parser,
        "--reasoning-parser": spec.reasoning_parser,
        "--chat-template": str(spec.chat_template) if spec.chat_template else None,
        "--seed": spec.seed,
    }
    for flag, value in values.items():
        if value is not None:
            yield from (flag, str(value))
    # We ask for its health every few seconds.
    yield "--disable-uvicorn-access-log"
    if spec.tool_parser is not None:
        yield "--enable-auto-tool-choice"
    if spec.adapters:
        yield "--enable-lora"
        yield "--lora-modules"
        yield from (
            json.dumps({"name": adapter.name, "path": adapter.path, "base_model_name": spec.model})
            for adapter in spec.adapters
        )
    if spec.eager:
        yield "--enforce-eager"
    if spec.trust_remote_code:
        yield "--trust-remote-code"
    yield from spec.arguments
