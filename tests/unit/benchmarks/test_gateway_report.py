"""Verdicts and tables of the gateway benchmark, from invented samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.gateway.measure import LOADS, Load, Sample
from benchmarks.gateway.report import FLAT_BYTES, Samples, Verdict, p50, per_second, tables, verdicts

MEGABYTE = 1 << 20


def sample(variant: str, load: Load, number: int, **fields: Any) -> Sample:
    plain = Sample(
        number, variant, load.kind, load.clients, per_second=10_000.0, p50=0.1, p99=0.2, first_p50=0.1,
        first_p99=0.2, cpu=20.0, helper_cpu=None, completed=100, errors=0, first_error="",
    )  # fmt: skip
    return replace(plain, **fields)


def run(by_variant: dict[str, dict[str, Any]]) -> list[Sample]:
    return [
        sample(variant, load, number, **fields)
        for number in range(3)
        for load in LOADS
        for variant, fields in by_variant.items()
    ]


GOOD: dict[str, dict[str, Any]] = {
    "direct": {"cpu": None},
    "raw_aiohttp": {"per_second": 9_000.0, "cpu": 25.0},
    "litellm": {"per_second": 100.0},
    "latticework": {"per_second": 5_000.0, "p50": 0.5, "p99": 4.0, "first_p50": 1.0, "cpu": 30.0},
}
STEADY = {"requests": 200_000, "warmup": 20_000, "resident_bytes": [80 * MEGABYTE] * 11, "errors": 0}


def met(found: list[Verdict]) -> dict[str, bool | None]:
    return {verdict.target: verdict.met for verdict in found}


def test_all_targets_met() -> None:
    found = met(verdicts(Samples(run(GOOD)), STEADY))
    assert len(found) == 10
    assert set(found.values()) == {True}


@pytest.mark.parametrize(
    ("fields", "target"),
    [
        ({"per_second": 3_999.0}, "at least 4,000 requests/s at 64 clients"),
        ({"per_second": 3_999.0}, "at least 40 times LiteLLM at 64 clients"),
        ({"per_second": 4_499.0}, "at least 0.5 of the bare aiohttp proxy's requests/s"),
        ({"p50": 0.61}, "added p50 at 1 client, ms, below 0.5"),
        ({"p99": 5.3}, "added p99 at 16 clients, ms, below 5"),
        ({"first_p50": 2.2}, "first chunk later (p50, worst of 1, 16, 64), ms, below 2"),
        ({"cpu": 60.0}, "CPU per chunk at 64 streams, us, below 60"),
        ({"cpu": 38.0}, "CPU per chunk, times the bare aiohttp proxy's, below 1.5"),
        ({"errors": 1}, "no call fails in the whole run"),
    ],
)
def test_each_target_can_be_missed(fields: dict[str, Any], target: str) -> None:
    worse = GOOD | {"latticework": GOOD["latticework"] | fields}
    assert met(verdicts(Samples(run(worse)), STEADY))[target] is False


@pytest.mark.parametrize(
    ("growth", "errors", "expected"),
    [(FLAT_BYTES - 1, 0, True), (FLAT_BYTES, 0, False), (0, 1, False), (-MEGABYTE, 0, True)],
)
def test_flat_memory(growth: int, errors: int, expected: bool) -> None:
    grown = STEADY | {"resident_bytes": [80 * MEGABYTE, 80 * MEGABYTE + growth], "errors": errors}
    target = "RSS grows by less than 4 MiB over 200,000 requests"
    assert met(verdicts(Samples(run(GOOD)), grown))[target] is expected


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    without = {name: fields for name, fields in GOOD.items() if name != "litellm"}
    found = met(verdicts(Samples(run(without)), None))
    assert found["at least 40 times LiteLLM at 64 clients"] is None
    assert found["resident memory is flat"] is None


def test_comparisons_are_made_inside_a_round() -> None:
    """A round in which the whole machine was slow changes neither ratio nor difference."""
    load = Load("json", 64)
    samples = Samples(
        [
            sample(variant, load, number, per_second=base * speed, p50=start + ours)
            for number, (speed, start) in enumerate([(1.0, 1.0), (0.1, 9.0), (0.2, 5.0)])
            for variant, base, ours in (("latticework", 4000.0, 0.25), ("direct", 40_000.0, 0.0))
        ]
    )
    assert samples.ratio("direct", load, per_second) == pytest.approx(0.1)
    assert samples.added(load, p50) == pytest.approx(0.25)
    assert samples.median("latticework", load, per_second) == pytest.approx(800)


def test_tables_name_every_variant_and_measurement() -> None:
    samples = run(GOOD)
    samples = [replace(s, helper_cpu=7.0) if s.variant == "latticework" else s for s in samples]
    labels = {name: name.title() for name in GOOD}
    text = tables(Samples(samples), labels, {"latticework": 90_000_000})
    plain, streams, against = text.split("\n\n")
    assert len(plain.splitlines()) == len(streams.splitlines()) == 2 + len(GOOD)
    assert len(against.splitlines()) == 2 + len(GOOD) - 1
    row = next(line for line in plain.splitlines() if "Latticework" in line)
    assert "5,000 / 5,000 / 5,000" in row
    assert "30 (+ 7 Redis)" in row
    assert "| 90" in row
    assert "50.00 / 50.00 / 50.00" in next(line for line in against.splitlines() if "Litellm" in line)


def test_a_variant_without_a_load_shows_a_dash() -> None:
    samples = [s for s in run(GOOD) if not (s.variant == "litellm" and s.kind == "stream")]
    streams = tables(Samples(samples), {name: name for name in GOOD}, {}).split("\n\n")[1]
    assert "- / - / -" in next(line for line in streams.splitlines() if "litellm" in line)
