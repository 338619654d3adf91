"""From samples to tables and verdicts. Pure: knows nothing of processes or sockets.

Every comparison is made inside a round first (both sides measured seconds apart, in the same load of
the machine); what is reported is the median over the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.gateway.measure import LOADS, Load, Sample

GATEWAY, DIRECT, LITELLM, BARE, LIMIT = "latticework", "direct", "litellm", "raw_aiohttp", "nginx"

FLAT_BYTES = 4 << 20
"""Growth of resident memory over 200,000 requests that still counts as flat: 21 bytes a request, less
than the smallest Python object, so that a leak of one object a request cannot hide below it."""

Field = Callable[[Sample], float | None]


class Samples:
    """The samples of one run, asked by variant and load."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._by_key = {(s.variant, s.kind, s.clients, s.round): s for s in samples}
        self.rounds = sorted({s.round for s in samples})
        self.variants = list(dict.fromkeys(s.variant for s in samples if s.round == self.rounds[0]))
        self.errors = sum(s.errors for s in samples)

    def values(self, variant: str, load: Load, field: Field) -> list[float]:
        """The values of one field, one per round."""
        return [
            value
            for number in self.rounds
            if (sample := self._by_key.get((variant, load.kind, load.clients, number))) is not None
            and (value := field(sample)) is not None
        ]

    def median(self, variant: str, load: Load, field: Field) -> float | None:
        """The median over the rounds, or None if it was not measured."""
        values = self.values(variant, load, field)
        return median(values) if values else None

    def paired(
        self, ours: str, theirs: str, load: Load, field: Field, combine: Callable[[float, float], float]
    ) -> float | None:
        """The median over the rounds of a comparison made inside each round."""
        mine, other = self.values(ours, load, field), self.values(theirs, load, field)
        if not mine or not other:
            return None
        return median(map(combine, mine, other))

    def added(self, load: Load, field: Field) -> float | None:
        """What the gateway adds to a direct connection."""
        return self.paired(GATEWAY, DIRECT, load, field, lambda ours, direct: ours - direct)

    def ratio(self, other: str, load: Load, field: Field) -> float | None:
        """How many times the gateway's value is that of another variant."""
        return self.paired(GATEWAY, other, load, field, lambda ours, theirs: ours / theirs)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what was measured; `met` is None where it was not measured."""

    target: str
    measured: str
    met: bool | None

    def line(self) -> str:
        word = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        return f"{word:>12}  {self.target}: {self.measured}"


def per_second(sample: Sample) -> float:
    return sample.per_second


def p50(sample: Sample) -> float:
    return sample.p50


def p99(sample: Sample) -> float:
    return sample.p99


def first(sample: Sample) -> float | None:
    return sample.first_p50


def first_tail(sample: Sample) -> float | None:
    return sample.first_p99


def cpu(sample: Sample) -> float | None:
    return sample.cpu


def helper_cpu(sample: Sample) -> float | None:
    return sample.helper_cpu


def _json(clients: int) -> Load:
    return Load("json", clients)


def _stream(clients: int) -> Load:
    return Load("stream", clients)


def verdicts(samples: Samples, memory: dict[str, Any] | None) -> list[Verdict]:
    """What the gateway promises, each against what was measured."""
    streams = [load for load in LOADS if load.kind == "stream"]
    later = [value for load in streams if (value := samples.added(load, first)) is not None]
    return [
        _at_least(
            "requests/s at 64 clients", 4000, samples.median(GATEWAY, _json(64), per_second), "{:,.0f}"
        ),
        _at_least("times LiteLLM at 64 clients", 40, samples.ratio(LITELLM, _json(64), per_second), "{:.1f}"),
        _below("added p50 at 1 client, ms", 0.5, samples.added(_json(1), p50), "{:.3f}"),
        _below("added p99 at 16 clients, ms", 5, samples.added(_json(16), p99), "{:.2f}"),
        _below("first chunk later (p50, worst of 1, 16, 64), ms", 2, max(later, default=None), "{:.2f}"),
        _below("CPU per chunk at 64 streams, us", 60, samples.median(GATEWAY, _stream(64), cpu), "{:.1f}"),
        _at_least(
            "of the bare aiohttp proxy's requests/s",
            0.5,
            samples.ratio(BARE, _json(64), per_second),
            "{:.2f}",
        ),
        _below(
            "CPU per chunk, times the bare aiohttp proxy's",
            1.5,
            samples.ratio(BARE, _stream(64), cpu),
            "{:.2f}",
        ),
        _flat(memory),
        Verdict("no call fails in the whole run", f"{samples.errors} failed", samples.errors == 0),
    ]


def _flat(memory: dict[str, Any] | None) -> Verdict:
    if memory is None:
        return Verdict("resident memory is flat", "-", None)
    growth = memory["resident_bytes"][-1] - memory["resident_bytes"][0]
    target = f"RSS grows by less than {FLAT_BYTES >> 20} MiB over {memory['requests']:,} requests"
    measured = f"{growth / 2**20:+.1f} MiB to {memory['resident_bytes'][-1] / 2**20:.0f}, "
    measured += f"{memory['errors']} failed"
    return Verdict(target, measured, growth < FLAT_BYTES and memory["errors"] == 0)


def _at_least(what: str, bound: float, value: float | None, form: str) -> Verdict:
    measured = "-" if value is None else form.format(value)
    return Verdict(f"at least {bound:,g} {what}", measured, None if value is None else value >= bound)


def _below(what: str, bound: float, value: float | None, form: str) -> Verdict:
    measured = "-" if value is None else form.format(value)
    return Verdict(f"{what}, below {bound:g}", measured, None if value is None else value < bound)


def tables(samples: Samples, labels: dict[str, str], resident: dict[str, int]) -> str:
    """The whole comparison as Markdown, which also reads well on a terminal."""
    return "\n\n".join(
        (
            _table(
                ["small JSON", "req/s at 1 / 16 / 64", "p50 ms at 1 / 16 / 64", "p99 ms at 1 / 16 / 64",
                 "CPU us a request", "RSS MB"],
                [
                    [
                        labels[name],
                        _triple(samples, name, "json", per_second, "{:,.0f}"),
                        _triple(samples, name, "json", p50, "{:.2f}"),
                        _triple(samples, name, "json", p99, "{:.2f}"),
                        _cpu(samples, name, _json(64)),
                        f"{resident[name] / 1e6:.0f}" if name in resident else "-",
                    ]
                    for name in samples.variants
                ],
            ),
            _table(
                ["200-chunk stream", "first chunk p50 ms at 1 / 16 / 64", "first chunk p99 ms at 64",
                 "done p50 ms at 1 / 16 / 64", "done p99 ms at 64", "CPU us a chunk at 64"],
                [
                    [
                        labels[name],
                        _triple(samples, name, "stream", first, "{:.2f}"),
                        _one(samples, name, _stream(64), first_tail, "{:.1f}"),
                        _triple(samples, name, "stream", p50, "{:,.0f}"),
                        _one(samples, name, _stream(64), p99, "{:,.0f}"),
                        _cpu(samples, name, _stream(64)),
                    ]
                    for name in samples.variants
                ],
            ),
            _table(
                ["gateway against", "req/s at 1 / 16 / 64, times", "CPU a request at 64, times",
                 "CPU a chunk at 64, times"],
                [
                    [
                        labels[name],
                        _ratios(samples, name),
                        _number(samples.ratio(name, _json(64), cpu), "{:.2f}"),
                        _number(samples.ratio(name, _stream(64), cpu), "{:.2f}"),
                    ]
                    for name in samples.variants
                    if name != GATEWAY and GATEWAY in samples.variants
                ],
            ),
        )
    )  # fmt: skip


def _cpu(samples: Samples, name: str, load: Load) -> str:
    own = _one(samples, name, load, cpu, "{:,.0f}")
    helper = samples.median(name, load, helper_cpu)
    return own if helper is None else f"{own} (+ {helper:.0f} Redis)"


def _ratios(samples: Samples, other: str) -> str:
    ratios = (samples.ratio(other, _json(clients), per_second) for clients in (1, 16, 64))
    return " / ".join(_number(ratio, "{:.2f}") for ratio in ratios)


def _triple(samples: Samples, name: str, kind: str, field: Field, form: str) -> str:
    return " / ".join(_one(samples, name, Load(kind, clients), field, form) for clients in (1, 16, 64))


def _one(samples: Samples, name: str, load: Load, field: Field, form: str) -> str:
    return _number(samples.median(name, load, field), form)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _table(head: list[str], rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])
