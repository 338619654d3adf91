"""What crosses the wire on the paths of this service that are not OpenAI's."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.model.engines.base import EngineState
from services.model.engines.specs import MODEL_NAME, EngineSpec, ModelName

ALIAS_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
ARTIFACT_NAME = r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,199}$"
ArtifactKind = Literal["checkpoint", "adapter", "gguf", "dataset", "report"]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class EngineCreate(_Body):
    """An engine to load."""

    spec: EngineSpec
    shared: bool = Field(True, description="usable by every tenant of the suite, else by the caller's alone")


class EngineSwap(_Body):
    """What an engine becomes; it goes on serving until the new one is ready."""

    spec: EngineSpec


class EngineCapabilities(BaseModel):
    """What an engine can do."""

    chat: bool
    completions: bool
    embeddings: bool
    classification: bool
    context_length: int | None
    dimensions: int | None


class EngineView(BaseModel):
    """An engine as it is now."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    state: EngineState
    reason: str | None = Field(description="why it is not ready, or why the last swap failed")
    shared: bool
    spec: EngineSpec
    models: list[str]
    capabilities: EngineCapabilities
    generation: int = Field(description="counts the swaps, from 1")
    swapping: bool
    restarts: int = Field(description="how often it was brought up again after it had died")
    requests: int = Field(description="requests it holds now")
    created_at: datetime


class AliasPut(_Body):
    """Where a name leads."""

    engine: str = Field(max_length=64)
    model: ModelName | None = Field(None, description="unset is the engine's first model")
    shared: bool = True


class AliasView(BaseModel):
    """A name clients may ask for."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    engine: str
    model: str | None = Field(pattern=MODEL_NAME)
    shared: bool


class ArtifactFile(BaseModel):
    """One file of an artifact."""

    path: str
    sha256: str
    size: int


class ArtifactView(BaseModel):
    """An artifact: its manifest and where it came from."""

    id: str
    name: str
    kind: ArtifactKind
    size: int = Field(description="bytes of all files")
    manifest_sha256: str
    metadata: dict[str, Any]
    created_at: datetime


class ArtifactDetail(ArtifactView):
    """An artifact with its files."""

    files: list[ArtifactFile]


class ModelObject(BaseModel):
    """OpenAI's model object."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str


class ModelList(BaseModel):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
