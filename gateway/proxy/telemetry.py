"""What the gateway counts. Plain numbers on the hot path, spelled as Prometheus only when scraped.

Names follow OpenTelemetry's GenAI conventions where there is one (gen_ai.client.*, 2026, status
Development). Labels are tenant classes and services, never keys or tenants.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from gateway.limits import Usage
from gateway.proxy.upstreams import Upstreams

#: Buckets of the conventions: seconds of operations, tokens of one call.
SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
PER_CHUNK = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)

Labels = tuple[str, ...]


class _Histogram:
    __slots__ = ("bounds", "cells")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.cells: dict[Labels, tuple[list[int], list[float]]] = {}

    def observe(self, labels: Labels, value: float) -> None:
        cell = self.cells.get(labels)
        if cell is None:
            cell = self.cells[labels] = ([0] * (len(self.bounds) + 1), [0.0])
        cell[0][bisect_left(self.bounds, value)] += 1
        cell[1][0] += value


class GatewayMetrics(Collector):
    """Numbers of one gateway process."""

    def __init__(
        self,
        registry: CollectorRegistry,
        upstreams: Upstreams,
        rejections: dict[str, int],
        waiting_settlements: Callable[[], int],
    ) -> None:
        self._upstreams = upstreams
        self._rejections = rejections
        self._waiting_settlements = waiting_settlements
        self.in_flight = 0
        self._requests: dict[Labels, int] = {}
        self._tokens: dict[Labels, int] = {}
        self._cost: dict[Labels, int] = {}
        self._duration = _Histogram(SECONDS)
        self._first_chunk = _Histogram(SECONDS)
        self._per_chunk = _Histogram(PER_CHUNK)
        self._usage = _Histogram(TOKENS)
        registry.register(self)

    def request(self, service: str, tenant_class: str, status: int, seconds: float) -> None:
        """A request was answered; `status` 0 means the client left before."""
        labels = (service, tenant_class, str(status))
        self._requests[labels] = self._requests.get(labels, 0) + 1
        self._duration.observe((service, tenant_class), seconds)

    def model_call(self, operation: str, tenant_class: str, usage: Usage) -> None:
        """Tokens and cost of a model call are known."""
        for kind, count in (("input", usage.prompt), ("output", usage.completion)):
            if count:
                self._usage.observe((operation, tenant_class, kind), count)
        labels = (operation, tenant_class)
        self._cost[labels] = self._cost.get(labels, 0) + usage.cost

    def stream(self, tenant_class: str, first: float, chunks: int, rest: float) -> None:
        """A stream ended: seconds to its first chunk, number of chunks, seconds after the first."""
        labels = (tenant_class,)
        self._first_chunk.observe(labels, first)
        if chunks > 1:
            self._per_chunk.observe(labels, rest / (chunks - 1))

    def collect(self) -> Iterator[Metric]:
        """Called by a scrape."""
        requests = CounterMetricFamily(
            "latticework_gateway_requests",
            "Answered requests; status 0 means the client left before its answer",
            labels=("service", "tenant_class", "status"),
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        cost = CounterMetricFamily(
            "latticework_gateway_cost_usd",
            "US dollars settled",
            labels=("gen_ai_operation_name", "tenant_class"),
        )
        for labels, micro in self._cost.items():
            cost.add_metric(labels, micro / 1e6)
        yield cost
        operation = ("gen_ai_operation_name", "tenant_class")
        for name, text, histogram, names in (
            ("gen_ai_client_operation_duration_seconds", "Time from request to last byte", self._duration,
             ("service", "tenant_class")),
            ("gen_ai_client_operation_time_to_first_chunk_seconds", "Time to the first chunk",
             self._first_chunk, ("tenant_class",)),
            ("gen_ai_client_operation_time_per_output_chunk_seconds", "Time between chunks",
             self._per_chunk, ("tenant_class",)),
            ("gen_ai_client_token_usage", "Billable tokens of a call", self._usage,
             (*operation, "gen_ai_token_type")),
        ):  # fmt: skip
            yield _family(name, text, histogram, names)
        yield GaugeMetricFamily("latticework_gateway_in_flight", "Requests being answered", self.in_flight)
        yield GaugeMetricFamily(
            "latticework_gateway_unconfirmed_settlements",
            "Settlements that Redis has not confirmed yet",
            self._waiting_settlements(),
        )
        rejected = CounterMetricFamily(
            "latticework_gateway_limiter_rejections", "Calls refused by limits", labels=("reason",)
        )
        for reason, count in self._rejections.items():
            rejected.add_metric((reason,), count)
        yield rejected
        yield from self._of_upstreams()

    def _of_upstreams(self) -> Iterator[Metric]:
        names = ("service", "address")
        state = GaugeMetricFamily(
            "latticework_gateway_breaker_state", "0 closed, 1 probing, 2 open", labels=names
        )
        active = GaugeMetricFamily(
            "latticework_gateway_upstream_active", "Calls running at an upstream", labels=names
        )
        waiting = GaugeMetricFamily(
            "latticework_gateway_upstream_waiting", "Calls queued for an upstream", labels=names
        )
        for service, pools in self._upstreams.pools.items():
            for index, pool in enumerate(pools):
                place = (service, str(index))
                state.add_metric(place, pool.state.value)
                active.add_metric(place, pool.active)
                waiting.add_metric(place, pool.waiting)
        yield from (state, active, waiting)


def _family(name: str, text: str, histogram: _Histogram, names: tuple[str, ...]) -> Metric:
    family = HistogramMetricFamily(name, text, labels=names)
    for labels, (counts, total) in histogram.cells.items():
        running = 0
        buckets = []
        for bound, count in zip((*histogram.bounds, float("inf")), counts, strict=True):
            running += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), running))
        family.add_metric(labels, buckets, total[0])
    return family
