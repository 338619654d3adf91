"""Settings of the model service."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from services.model.engines.specs import EncoderSpec, EngineSpec, LlamaCppSpec
from shared.settings import ServiceSettings


class ConfiguredEngine(BaseModel):
    """An engine that is there from the start, for the whole suite, and the aliases that lead to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")
    spec: EngineSpec
    aliases: tuple[str, ...] = ()


DEFAULT_ENGINES = (
    ConfiguredEngine(
        id="engine_default",
        spec=LlamaCppSpec(model="smollm2-135m-instruct"),
        aliases=("default",),
    ),
    ConfiguredEngine(id="engine_embed", spec=EncoderSpec(model="all-minilm-l6-v2"), aliases=("embed",)),
)


class ModelSettings(ServiceSettings):
    """`LATTICEWORK_MODEL_*`, beside what every service has."""

    service: ClassVar[str] = "model"

    model_engines: tuple[ConfiguredEngine, ...] = Field(
        DEFAULT_ENGINES,
        description="JSON list of {id, spec, aliases}: the engines there from the start; "
        "default is SmolLM2-135M-Instruct on llama.cpp and all-MiniLM-L6-v2 on onnxruntime",
    )
    model_threads: int | None = Field(
        None,
        ge=1,
        le=256,
        description="threads of each local engine whose description names none; default is cores - 1",
    )
    model_queue: int = Field(
        32, ge=0, le=4096, description="requests that may wait before a local engine; the next gets 503"
    )
    model_vllm_python: Path = Field(
        Path(".latticework/vllm-venv/bin/python"),
        description="interpreter of the environment that holds vLLM",
    )
    model_required: tuple[str, ...] = Field(
        ("default", "embed"),
        description="aliases that must work for the service to be ready; undefined ones do not count",
    )
    model_artifact_bytes: int = Field(16 << 30, gt=0, description="largest artifact that may be uploaded")
