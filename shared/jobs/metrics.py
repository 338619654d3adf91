"""Figures of the queue for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from shared.jobs.upkeep import PoolDepth

RUN_BUCKETS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 28800, 86400)
WAIT_BUCKETS = (0.005, 0.02, 0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200)


def failure_counter(registry: CollectorRegistry) -> Counter:
    """Bad ends, one for each event `retrying` or `failed`, counted by the process that wrote it."""
    return Counter(
        "latticework_job_failures",
        "Bad ends by problem code: attempts that are repeated (retrying) and jobs that failed",
        ("kind", "code", "outcome"),
        registry=registry,
    )


class WorkerMetrics:
    """What one worker has done."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.waited = Histogram(
            "latticework_job_wait_seconds",
            "Time from when a job may start to its start",
            ("pool",),
            buckets=WAIT_BUCKETS,
            registry=registry,
        )
        self._seconds = Histogram(
            "latticework_job_run_seconds",
            "Time one attempt ran",
            ("kind",),
            buckets=RUN_BUCKETS,
            registry=registry,
        )
        self._attempts = Counter(
            "latticework_job_attempts", "Attempts by how they ended", ("kind", "outcome"), registry=registry
        )
        self.running = Gauge("latticework_jobs_running_here", "Attempts this worker runs", registry=registry)

    def ended(self, kind: str, outcome: str, seconds: float) -> None:
        """Count the end of an attempt."""
        self._attempts.labels(kind, outcome).inc()
        self._seconds.labels(kind).observe(seconds)


class QueueMetrics:
    """How much waits where; refreshed by whoever keeps the queue."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._queued = Gauge("latticework_jobs_queued", "Waiting jobs", ("pool",), registry=registry)
        self._running = Gauge("latticework_jobs_running", "Running jobs", ("pool",), registry=registry)
        self._oldest = Gauge(
            "latticework_jobs_oldest_seconds",
            "How long the first in line could have started already",
            ("pool",),
            registry=registry,
        )
        self._pools: set[str] = set()

    def show(self, depths: list[PoolDepth]) -> None:
        """Set the gauges; a pool that has emptied falls to zero."""
        for pool in self._pools - {depth.pool for depth in depths}:
            for gauge in (self._queued, self._running, self._oldest):
                gauge.labels(pool).set(0)
        for depth in depths:
            self._queued.labels(depth.pool).set(depth.queued)
            self._running.labels(depth.pool).set(depth.running)
            self._oldest.labels(depth.pool).set(depth.oldest_s)
        self._pools |= {depth.pool for depth in depths}
