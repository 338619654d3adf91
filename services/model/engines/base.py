"""The one interface behind which every model runs.

An engine starts, says how it is, lends itself to requests, drains and stops. It knows nothing of
aliases, tenants or OpenAI's protocol; those who call it know nothing of processes and ports.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from shared.upstream import Upstream


class EngineState(StrEnum):
    """Where an engine is in its life. Only a ready engine takes requests."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do.

    `native`: it does the whole protocol itself (several choices with their usage, tools, schemas,
    old log probabilities) and judges its parameters, also those we do not know.
    `grammar`: how it takes a grammar, if it does.
    """

    chat: bool = False
    completions: bool = False
    embeddings: bool = False
    classification: bool = False
    native: bool = True
    grammar: Literal["llamacpp", "vllm"] | None = None
    context_length: int | None = None
    dimensions: int | None = None


class EngineUnavailable(Exception):
    """The engine takes no request now; `retry_after` is in seconds."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after


class EngineOverloaded(EngineUnavailable):
    """All slots are taken and the queue before them is full."""


class EngineStartFailed(Exception):
    """The engine cannot be started; the message says why."""


class Engine(ABC):
    """A model, or several, that can be started and stopped.

    `limit` bounds the requests an engine holds at once, running and queued.
    """

    kind: str = "engine"

    def __init__(self, *, limit: int) -> None:
        self.limit = limit
        self.in_flight = 0
        self.state = EngineState.STOPPED
        self.reason: str | None = None
        self.restarts = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    @abstractmethod
    def models(self) -> Sequence[str]:
        """Names this engine answers to."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What it can do; may be refined once it is ready."""

    @abstractmethod
    async def start(self) -> None:
        """Bring it up and return when it is ready.

        Raises:
            EngineStartFailed: it will not come up; nothing of it is left running.
        """

    @abstractmethod
    async def close(self) -> None:
        """Stop at once; running requests fail."""

    @property
    def retry_after(self) -> float:
        """Seconds after which asking again may help."""
        return 2.0

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Hold the engine for one request; a drain waits for it.

        Raises:
            EngineUnavailable: it is not ready, or full.
        """
        if self.state is not EngineState.READY:
            raise EngineUnavailable(self.reason or f"the engine is {self.state}", self.retry_after)
        if self.in_flight >= self.limit:
            raise EngineOverloaded(f"all {self.limit} places of the engine are taken", 1.0)
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.in_flight == 0:
                self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Take no new request, let the running ones finish for at most `seconds`, then stop."""
        if self.state is EngineState.READY:
            self.state = EngineState.DRAINING
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            pass
        await self.close()

    async def metrics_text(self) -> str | None:
        """The engine's own Prometheus page, or None where it has none."""
        return None


class ProxiedEngine(Engine):
    """An engine that opens an OpenAI port of its own; requests are passed on to `client`.

    `prefix` comes before `/chat/completions` and the other paths of the protocol.
    """

    prefix: str = "/v1"

    @property
    @abstractmethod
    def client(self) -> Upstream:
        """Where requests go."""

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """Headers every request to this engine carries."""
        return ()

    def upstream_model(self, model: str) -> str:
        """What the engine itself calls `model`."""
        return model


@dataclass(frozen=True, slots=True)
class Embeddings:
    """`vectors`: (texts, dimensions) float32 of unit length; `tokens`: tokens read from all texts."""

    vectors: npt.NDArray[np.float32]
    tokens: int


@runtime_checkable
class Embedder(Protocol):
    """An engine that turns texts into vectors inside this process."""

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        """Vectors of `inputs`, which are texts or token ids; ValueError when one is too long."""


@dataclass(frozen=True, slots=True)
class Classification:
    """Labels and probabilities of one input, most probable first."""

    labels: Sequence[str]
    probabilities: Sequence[float]


@runtime_checkable
class Classifier(Protocol):
    """An engine that puts labels on images or texts."""

    async def classify(self, inputs: Sequence[bytes]) -> Sequence[Classification]:
        """Labels of `inputs`."""
