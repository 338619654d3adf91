"""Rounds of the gateway benchmark: alternating order, every load, honest division."""

from __future__ import annotations

from typing import Any, cast

import pytest

from benchmarks.gateway.measure import FULL, LOADS, QUICK, Load, Loader, measure, request_body, rounds
from benchmarks.gateway.processes import CannotMeasure, Process
from benchmarks.gateway.variants import Variant

REPORT: dict[str, Any] = {
    "completed": 50, "errors": 0, "first_error": "", "chunks": 50, "per_second": 123.0,
    "latency_us": {"p50": 1500.0, "p99": 2500.0}, "first_chunk_us": {"p50": 700.0, "p99": 900.0},
}  # fmt: skip


class ScriptedLoader:
    def __init__(self, report: dict[str, Any]) -> None:
        self.report = report
        self.calls: list[tuple[str, str, int, dict[str, int]]] = []

    def __call__(self, variant: Variant, kind: str, clients: int, **options: int) -> dict[str, Any]:
        self.calls.append((variant.name, kind, clients, options))
        return self.report


class ScriptedProcess:
    """Uses 0.01 s of CPU between two looks."""

    def __init__(self) -> None:
        self.spent = 0.0

    def cpu_seconds(self) -> float:
        self.spent += 0.01
        return self.spent


def variant(name: str, slow: bool = False) -> Variant:
    return Variant(name, name, 1, slow=slow)


def test_every_other_round_runs_backwards() -> None:
    loader = ScriptedLoader(REPORT)
    samples = list(rounds(cast(Loader, loader), [variant("a"), variant("b")], FULL, 2))
    assert [s.variant for s in samples[: 2 * len(LOADS)]] == ["a", "b"] * len(LOADS)
    assert [s.variant for s in samples[2 * len(LOADS) :]] == ["b", "a"] * len(LOADS)
    assert [Load(s.kind, s.clients) for s in samples[: 2 * len(LOADS) : 2]] == list(LOADS)


def test_a_quick_run_spares_the_slow_their_streams() -> None:
    loader = ScriptedLoader(REPORT)
    kinds = {s.kind for s in rounds(cast(Loader, loader), [variant("a", slow=True)], QUICK, 1)}
    assert kinds == {"json"}


def test_a_slow_variant_is_watched_longer() -> None:
    loader = ScriptedLoader(REPORT)
    for name, slow in (("a", False), ("b", True)):
        measure(cast(Loader, loader), variant(name, slow), Load("json", 16), FULL, 0)
    quick, slow_one = (options["window_ms"] for _, _, _, options in loader.calls)
    assert slow_one == 3 * quick


def test_a_sample_divides_by_what_was_completed() -> None:
    way = variant("a")
    way.process = cast(Process, ScriptedProcess())
    sample = measure(cast(Loader, ScriptedLoader(REPORT)), way, Load("stream", 1), FULL, 7)
    assert sample.cpu == pytest.approx(0.01 / 50 * 1e6)
    assert (sample.p50, sample.p99, sample.first_p50, sample.round) == (1.5, 2.5, 0.7, 7)
    assert sample.helper_cpu is None


def test_nothing_completed_is_not_a_measurement() -> None:
    report = {key: value for key, value in REPORT.items() if not key.endswith("_us")}
    report["first_error"] = "status is not 200: HTTP/1.1 401"
    with pytest.raises(CannotMeasure, match="401"):
        measure(cast(Loader, ScriptedLoader(report)), variant("a"), Load("json", 1), FULL, 0)


def test_the_request_is_half_a_kilobyte() -> None:
    assert 450 < len(request_body(stream=False)) < 550
