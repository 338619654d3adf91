"""What an operator says about an engine: one description per kind, told apart by `kind`.

These are values: they cross the wire, are stored, and are compared. They start nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, HttpUrl, TypeAdapter, field_validator, model_validator

MODEL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$"
KEY_VARIABLE = r"^LATTICEWORK_MODEL_KEY_[A-Z0-9_]{1,64}$"

ModelName = Annotated[str, Field(pattern=MODEL_NAME, description="the name clients ask for")]


_LARGEST = 2**53 - 1
"""JSON's readers agree on whole numbers up to here (RFC 8259, section 6)."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="after")
    def _passable(self) -> Self:
        """What goes to a command line and into a database must be able to."""
        for name, value in self:
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, str | Path) and "\0" in str(item):
                    raise ValueError(f"{name} must not hold the character U+0000")
                if isinstance(item, int) and abs(item) > _LARGEST:
                    raise ValueError(f"{name} is too large a number")
        return self


class LlamaCppAdapter(_Spec):
    """A LoRA adapter in GGUF form, merged into every answer with the given weight."""

    path: Path
    scale: float = Field(1.0, ge=-10, le=10)


class LlamaCppSpec(_Spec):
    """A GGUF file on llama.cpp in a process of its own."""

    kind: Literal["llamacpp"] = "llamacpp"
    model: ModelName
    path: Path | None = Field(
        None, description="GGUF file; unset is the SmolLM2-135M-Instruct that ships inside a package"
    )
    context_length: int = Field(8192, ge=256, le=1 << 20, description="tokens one slot can hold")
    slots: int = Field(4, ge=1, le=64, description="requests decoded together")
    threads: int | None = Field(
        None, ge=1, le=256, description="unset is cores - 1: llama.cpp spins, a full machine stalls it"
    )
    gpu_layers: int = Field(0, ge=0, le=1024)
    chat_template: Path | None = Field(None, description="Jinja file used instead of the one in the GGUF")
    adapters: tuple[LlamaCppAdapter, ...] = Field((), max_length=16)


class VllmAdapter(_Spec):
    """A LoRA adapter vLLM offers as a model of its own name."""

    name: ModelName
    path: str = Field(min_length=1, max_length=4096)


class VllmSpec(_Spec):
    """A supervised vLLM server."""

    kind: Literal["vllm"] = "vllm"
    model: ModelName
    path: str = Field(min_length=1, max_length=4096, description="Hugging Face folder or repository")
    dtype: Literal["auto", "half", "float16", "bfloat16", "float", "float32"] = "auto"
    tensor_parallel: int = Field(1, ge=1, le=64)
    pipeline_parallel: int = Field(1, ge=1, le=64)
    context_length: int | None = Field(None, ge=16)
    sequences: int | None = Field(None, ge=1, description="requests decoded together")
    gpu_memory: float | None = Field(None, gt=0, le=1, description="share of each device's memory")
    quantization: str | None = Field(None, pattern=r"^[a-z0-9_-]{1,32}$")
    adapters: tuple[VllmAdapter, ...] = Field((), max_length=64)
    adapter_rank: int | None = Field(None, ge=1, le=512)
    tool_parser: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_]{1,64}$", description="vLLM's tool call parser, such as hermes"
    )
    reasoning_parser: str | None = Field(None, pattern=r"^[A-Za-z0-9_]{1,64}$")
    chat_template: Path | None = None
    eager: bool = Field(False, description="no graph capture: starts sooner, decodes slower")
    trust_remote_code: bool = Field(False, description="run Python that comes with the weights")
    seed: int = 0
    arguments: tuple[str, ...] = Field((), max_length=64, description="further flags, passed on as they are")


class UpstreamSpec(_Spec):
    """Any OpenAI-compatible address, hosted or our own."""

    kind: Literal["upstream"] = "upstream"
    base_url: HttpUrl = Field(description="up to and including /v1")
    models: tuple[ModelName, ...] = Field(min_length=1, max_length=256)
    key_variable: str | None = Field(
        None,
        pattern=KEY_VARIABLE,
        description="environment variable that holds the API key; the key itself is never stored",
    )
    embeddings: bool = False
    max_concurrency: int = Field(64, ge=1, le=4096)
    probe: bool = Field(True, description="ask for the model list to know whether it is there")

    @field_validator("base_url")
    @classmethod
    def _no_credentials(cls, url: HttpUrl) -> HttpUrl:
        if url.username or url.password:
            raise ValueError("put the key into an environment variable and name it in key_variable")
        return url


class EncoderSpec(_Spec):
    """A sentence encoder on onnxruntime, in threads of the service."""

    kind: Literal["encoder"] = "encoder"
    model: ModelName
    path: Path | None = Field(
        None,
        description="folder with config.json, model.safetensors, tokenizer.json; unset is the packaged one",
    )
    threads: int | None = Field(None, ge=1, le=256)


EngineSpec = Annotated[LlamaCppSpec | VllmSpec | UpstreamSpec | EncoderSpec, Field(discriminator="kind")]

spec_adapter: TypeAdapter[LlamaCppSpec | VllmSpec | UpstreamSpec | EncoderSpec] = TypeAdapter(EngineSpec)
