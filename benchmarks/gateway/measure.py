"""One load on one variant, and rounds of them in alternating order."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.gateway.processes import CannotMeasure, Process
from benchmarks.gateway.variants import MODEL, PATH, Variant

CHUNKS = 200
CHUNK_SECONDS = 0.005
PROMPT = (
    "You are a patient teacher. Answer in at most three short sentences and use no jargon. "
    "If the question has a wrong premise, say so first. Do not apologise and do not repeat the question. "
    "Prefer one good example to a list of facts, and stop when the point has been made. "
    "Answer in the language of the question."
)


@dataclass(frozen=True, slots=True)
class Load:
    """What the loader does: `clients` calls at once of small JSON or of streams."""

    kind: str
    clients: int


LOADS = tuple(Load(kind, clients) for kind in ("json", "stream") for clients in (1, 16, 64))
QUICK_LOADS = tuple(load for load in LOADS if load != Load("stream", 16))


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to look, in seconds. `ramp` is the time over which clients begin their streams.

    A stream lasts a second: `streams` of them per client, `lone_streams` for a client alone.
    """

    warmup: float
    window: float
    ramp: float
    streams: int
    lone_streams: int
    slow_streams: bool
    loads: tuple[Load, ...]


QUICK = Effort(
    warmup=0.2, window=0.5, ramp=0.5, streams=1, lone_streams=1, slow_streams=False, loads=QUICK_LOADS
)
FULL = Effort(warmup=0.4, window=2.0, ramp=1.0, streams=2, lone_streams=4, slow_streams=True, loads=LOADS)


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. Times in milliseconds, CPU in microseconds a request (json) or a chunk (stream)."""

    round: int
    variant: str
    kind: str
    clients: int
    per_second: float
    p50: float
    p99: float
    first_p50: float | None
    first_p99: float | None
    cpu: float | None
    helper_cpu: float | None
    completed: int
    errors: int
    first_error: str

    def line(self) -> str:
        """One line of progress."""
        return (
            f"{self.kind:6} {self.clients:2} {self.variant:14} {self.per_second:9,.1f}/s"
            f" p50 {self.p50:9.3f} ms p99 {self.p99:9.3f} ms {self.first_error}"
        )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def request_body(stream: bool) -> bytes:
    """A chat completion call of about half a kilobyte."""
    messages = [
        {"role": "system", "content": PROMPT},
        {"role": "user", "content": "Why is the sky blue?"},
    ]
    body: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": 256, "temperature": 0.7}
    if stream:
        body["stream"] = True
    return json.dumps(body, separators=(",", ":")).encode()


class Loader:
    """Runs the C load generator, on the core this process is pinned to."""

    def __init__(self, binary: Path, folder: Path) -> None:
        self._binary = binary
        self._folder = folder
        for kind in ("json", "stream"):
            (folder / f"{kind}.request").write_bytes(request_body(kind == "stream"))

    def __call__(self, variant: Variant, kind: str, clients: int, **options: int) -> dict[str, Any]:
        """What the loader prints about one run; its options are explained at the top of loader.c."""
        headers = self._folder / f"{variant.name}.headers"
        headers.write_text("".join(f"{name}: {value}\r\n" for name, value in variant.headers.items()))
        given = {
            "port": variant.port,
            "path": PATH,
            "request": self._folder / f"{kind}.request",
            "headers": headers,
            "clients": clients,
            "markers": CHUNKS if kind == "stream" else 1,
            "stream": int(kind == "stream"),
            **options,
        }
        command = [str(self._binary), *(f"{name}={value}" for name, value in given.items())]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            raise CannotMeasure(f"the loader failed at {variant.label}: {result.stderr.strip()}")
        report: dict[str, Any] = json.loads(result.stdout)
        return report


def warm_up(loader: Loader, variant: Variant) -> None:
    """Let a variant meet both kinds of calls once before anything counts."""
    loader(variant, "json", 8, requests=40 if variant.slow else 400)
    loader(variant, "stream", 4, requests=4)


def measure(loader: Loader, variant: Variant, load: Load, effort: Effort, number: int) -> Sample:
    """Put `load` on `variant` once.

    Raises:
        CannotMeasure: not one call succeeded.
    """
    proxies = [variant.process] if variant.process is not None else []
    before, helpers_before = _cpu(proxies), _cpu(variant.helpers)
    report = loader(variant, load.kind, load.clients, **_options(variant, load, effort))
    after, helpers_after = _cpu(proxies), _cpu(variant.helpers)
    # CPU is that of the whole run, warm-up included, over everything the run completed.
    pieces = report["chunks"]
    if "latency_us" not in report:
        raise CannotMeasure(f"no call through {variant.label} succeeded: {report['first_error']}")
    latency, first = report["latency_us"], report.get("first_chunk_us")
    return Sample(
        round=number,
        variant=variant.name,
        kind=load.kind,
        clients=load.clients,
        per_second=report["per_second"],
        p50=latency["p50"] / 1000,
        p99=latency["p99"] / 1000,
        first_p50=first["p50"] / 1000 if first else None,
        first_p99=first["p99"] / 1000 if first else None,
        cpu=(after - before) / pieces * 1e6 if proxies and pieces else None,
        helper_cpu=(helpers_after - helpers_before) / pieces * 1e6 if variant.helpers and pieces else None,
        completed=report["completed"],
        errors=report["errors"],
        first_error=report["first_error"],
    )


def _cpu(processes: Sequence[Process]) -> float:
    return sum(process.cpu_seconds() for process in processes)


def _options(variant: Variant, load: Load, effort: Effort) -> dict[str, int]:
    if load.kind == "json":
        factor = 3 if variant.slow else 1
        return {
            "warmup_ms": int(effort.warmup * factor * 1000),
            "window_ms": int(effort.window * factor * 1000),
        }
    streams = effort.lone_streams if load.clients == 1 else 1 if variant.slow else effort.streams
    # Streams begin spread over time: all at once would be a thundering herd that no crowd of users
    # produces, and would let a proxy wake once for 64 chunks.
    return {
        "requests": load.clients * streams,
        "ramp_ms": int(effort.ramp * 1000) if load.clients > 1 else 0,
        "limit_ms": 90_000,
    }


def rounds(loader: Loader, variants: Sequence[Variant], effort: Effort, count: int) -> Iterator[Sample]:
    """Every load on every variant, `count` times; every other round in reverse order."""
    for number in range(count):
        order = variants if number % 2 == 0 else list(reversed(variants))
        for load in effort.loads:
            for variant in order:
                if variant.slow and load.kind == "stream" and not effort.slow_streams:
                    continue
                yield measure(loader, variant, load, effort, number)


def memory(loader: Loader, variant: Variant, requests: int, warmup: int, steps: int = 10) -> dict[str, Any]:
    """Resident bytes of a variant after `warmup` requests and along the next `requests` of them."""
    assert variant.process is not None
    loader(variant, "json", 64, requests=warmup)
    resident, errors = [variant.process.resident_bytes()], 0
    for _ in range(steps):
        errors += loader(variant, "json", 64, requests=requests // steps)["errors"]
        resident.append(variant.process.resident_bytes())
    return {"requests": requests, "warmup": warmup, "resident_bytes": resident, "errors": errors}
