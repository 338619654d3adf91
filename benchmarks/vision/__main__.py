"""`python -m benchmarks.vision`: drawing against the reference and the codecs, then the service."""

from __future__ import annotations

import argparse
import asyncio

from benchmarks.vision.load import CLIENTS, LoadTimes, measure_load, running_service
from benchmarks.vision.report import print_table, write_json
from benchmarks.vision.speed import PathTimes, measure_codecs, measure_path


def _print_paths(paths: list[PathTimes]) -> None:
    print_table(
        ["1920x1080, 6x6", "ours", "reference", "same quality", "codecs only", "vs reference", "vs codecs"],
        [
            [
                f"{path.format} -> {path.format}",
                f"{path.ours:.1f} ms",
                f"{path.reference:.1f} ms",
                f"{path.reference_same_quality:.1f} ms",
                f"{path.codec_only:.1f} ms",
                f"{path.speedup:.2f}x",
                f"{path.over_codec:.2f}x",
            ]
            for path in paths
        ],
    )


def _print_loads(loads: list[LoadTimes]) -> None:
    print_table(
        ["clients", "p50", "p99", "images/s", "refused"],
        [
            [str(x.clients), f"{x.p50:.1f} ms", f"{x.p99:.1f} ms", f"{x.per_second:.1f}", str(x.refused)]
            for x in loads
        ],
    )


def main() -> None:
    """Measure, print, write JSON; exit 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="calls of each path; the minimum counts")
    parser.add_argument("--requests", type=int, default=400, help="at each number of clients")
    parser.add_argument("--codecs", action="store_true", help="also time the candidates for codecs")
    parser.add_argument("--no-service", action="store_true")
    arguments = parser.parse_args()
    paths = [measure_path("jpeg", arguments.rounds), measure_path("png", max(8, arguments.rounds // 3))]
    _print_paths(paths)
    codecs = measure_codecs(max(5, arguments.rounds // 4)) if arguments.codecs else {}
    if codecs:
        rows = [
            [name, f"{ms:.1f} ms", f"{size / 1e6:.2f} MB" if size else ""]
            for name, (ms, size) in codecs.items()
        ]
        print_table(["* chosen", "time", "size"], rows)
    loads: list[LoadTimes] = []
    if not arguments.no_service:
        with running_service() as (url, token):
            loads = [
                asyncio.run(measure_load(url, token, clients, arguments.requests)) for clients in CLIENTS
            ]
        _print_loads(loads)
    broken = [entry for path in paths for entry in path.broken()]
    print("targets:", "; ".join(broken) or "kept")
    write_json("speed", {"paths": paths, "codecs": codecs, "service": loads, "broken": broken})
    if broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
