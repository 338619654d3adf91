"""Figures of this service: how long models take, and what the engines say of themselves.

Names of the first kind, and of the spans, follow OpenTelemetry's GenAI conventions (July 2026), the
metrics in Prometheus spelling. Engines' own pages are read in the background and merged into ours,
each sample with the engine's id: a scrape of ours never waits for an engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Self

from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from services.model.engines.base import Engine, EngineState
from shared.problems import Problem
from shared.telemetry import logger, tracer
from shared.upstream import UpstreamError

log = logger(__name__)
spans = tracer(__name__)

SCRAPE_SECONDS = 5.0
_DURATION_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_FIRST_BUCKETS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class ModelMetrics:
    """Durations by operation and model; failures carry their code."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("gen_ai_operation_name", "gen_ai_response_model", "error_type")
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from the request to the last byte of the answer",
            labels,
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self._first = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from the request to the first byte of a streamed answer",
            labels[:2],
            buckets=_FIRST_BUCKETS,
            registry=registry,
        )
        self._token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Time for each token of a streamed answer after the first",
            labels[:2],
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )

    def timer(self, operation: str, model: str) -> CallTimer:
        """A timer for one call of `model`."""
        return CallTimer(self, operation, model)

    def ended(self, operation: str, model: str, error: str, seconds: float) -> None:
        """A call has ended; `error` is empty after a success."""
        self._duration.labels(operation, model, error).observe(seconds)

    def first(self, operation: str, model: str, seconds: float) -> None:
        """The first byte of a stream has come."""
        self._first.labels(operation, model).observe(seconds)

    def token(self, operation: str, model: str, seconds: float) -> None:
        """So long each further token of a stream took."""
        self._token.labels(operation, model).observe(seconds)


class CallTimer:
    """Times one call, and traces it; use as a context manager."""

    def __init__(self, metrics: ModelMetrics, operation: str, model: str) -> None:
        self._metrics, self._call = metrics, (operation, model)
        self._span: Span = INVALID_SPAN
        self._started = time.perf_counter()
        self._first: float | None = None
        self._error = ""

    def first_byte(self) -> None:
        """The first byte of a stream is here; later calls change nothing."""
        if self._first is None:
            self._first = time.perf_counter()
            self._metrics.first(*self._call, self._first - self._started)

    def streamed(self, tokens: int) -> None:
        """The stream has come to its proper end and held so many tokens."""
        if self._first is not None and tokens > 1:
            self._metrics.token(*self._call, (time.perf_counter() - self._first) / (tokens - 1))
            self._span.set_attribute("gen_ai.usage.output_tokens", tokens)

    def failed(self, code: str) -> None:
        """The call ends badly, though no exception says so."""
        self._error = code

    def __enter__(self) -> Self:
        operation, model = self._call
        attributes = {"gen_ai.operation.name": operation, "gen_ai.request.model": model}
        self._span = spans.start_span(f"{operation} {model}", kind=SpanKind.CLIENT, attributes=attributes)
        self._started = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, asyncio.CancelledError):
            self._error = "cancelled"
        elif error is not None:
            self._error = error.instance_code if isinstance(error, Problem) else type(error).__name__
        self._metrics.ended(*self._call, self._error, time.perf_counter() - self._started)
        if self._error:
            self._span.set_attribute("error.type", self._error)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class EngineMetrics(Collector):
    """The engines' pages as they were last read, merged."""

    def __init__(self, engines: Callable[[], Mapping[str, Engine]]) -> None:
        self._engines = engines
        self._pages: dict[str, list[Metric]] = {}

    async def keep_reading(self) -> None:
        """Read all pages now and then, until cancelled."""
        while True:
            await self.read()
            await asyncio.sleep(SCRAPE_SECONDS)

    async def read(self) -> None:
        """Read all pages once; an engine that does not answer has none."""
        engines = {
            name: engine for name, engine in self._engines().items() if engine.state is EngineState.READY
        }
        pages = await asyncio.gather(*(self._page(name, engine) for name, engine in engines.items()))
        self._pages = {name: page for name, page in zip(engines, pages, strict=True) if page}

    async def _page(self, name: str, engine: Engine) -> list[Metric]:
        try:
            text = await engine.metrics_text()
            return list(text_string_to_metric_families(text)) if text else []
        except (UpstreamError, ValueError, AssertionError) as error:
            log.debug("engine metrics not read", engine=name, reason=str(error))
            return []

    def collect(self) -> Iterable[Metric]:
        """One family for each name, with the samples of all engines."""
        families: dict[str, Metric] = {}
        for name, page in self._pages.items():
            for family in page:
                merged = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                for sample in _labelled(family, name):
                    merged.add_sample(*sample)
        return families.values()


def _labelled(family: Metric, engine: str) -> Iterator[tuple[str, dict[str, str], float]]:
    for sample in family.samples:
        yield sample.name, {**sample.labels, "engine": engine}, sample.value
