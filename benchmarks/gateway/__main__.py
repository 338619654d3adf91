"""Run it: `python -m benchmarks.gateway` (about ten minutes), or `--quick` (under one).

Prints the tables and a verdict per target, writes `results/gateway.json` (which `publish` puts into the
guide), and exits with 1 if a target was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx

from benchmarks.gateway.measure import (
    CHUNK_SECONDS,
    CHUNKS,
    FULL,
    QUICK,
    Effort,
    Loader,
    memory,
    rounds,
    warm_up,
)
from benchmarks.gateway.processes import CannotMeasure, Cores, compile_native, prioritise, start, wait_until
from benchmarks.gateway.report import GATEWAY, Samples, tables, verdicts
from benchmarks.gateway.variants import VARIANTS, Site, Variant, install_litellm
from shared.app import free_port

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("uvicorn", "uvloop", "httptools", "fastapi", "starlette", "httpx", "orjson", "hiredis")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one short round; LiteLLM only if installed, without its streams"
    )
    parser.add_argument("--rounds", type=int, help="repetitions in alternating order (default 4, quick 1)")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), help="these variants (default all)")
    parser.add_argument(
        "--memory-requests",
        type=int,
        help="requests of the memory test (default 200000, quick 10000; 0: none)",
    )
    parser.add_argument(
        "--nice",
        type=int,
        metavar="N",
        help="scheduler priority of everything here, e.g. -10 on a busy machine",
    )
    parser.add_argument("--output", type=Path, default=RESULTS / "gateway.json", help="where the JSON goes")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 4)
    if options.memory_requests is None:
        options.memory_requests = 10_000 if options.quick else 200_000
    return options


@contextlib.contextmanager
def placed(cores: Cores, nice: int | None) -> Iterator[None]:
    """Keep this process, and with it loader, upstream and Redis, off the core of the proxies."""
    before = os.sched_getaffinity(0)
    if nice is not None:
        prioritise(os.getpid(), nice)
    os.sched_setaffinity(0, {cores.rest})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start_variants(
    site: Site, names: list[str], stack: contextlib.ExitStack
) -> tuple[list[Variant], dict[str, str]]:
    """Start what can be started; the others with the reason why not."""
    running, missing = [], {}
    for name in names:
        try:
            variant = VARIANTS[name](site)
        except CannotMeasure as error:
            missing[name] = str(error)
            print(f"without {name}: {error}", file=sys.stderr)
            continue
        stack.callback(variant.stop)
        running.append(variant)
        print(f"ready: {variant.label}", file=sys.stderr)
    return running, missing


def run(options: argparse.Namespace, cores: Cores) -> dict[str, Any]:
    """Start everything, measure, stop everything; the whole result as JSON."""
    effort: Effort = QUICK if options.quick else FULL
    where = machine(cores)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="latticework-bench-")))
        upstream_binary, loader_binary = compile_native(folder)
        port = free_port()
        shape = (str(port), str(CHUNKS), str(int(CHUNK_SECONDS * 1e6)))
        upstream = start("upstream", [upstream_binary, *shape], core=cores.rest, folder=folder)
        stack.callback(upstream.stop)
        models = f"http://127.0.0.1:{port}/v1/models"
        wait_until(upstream, lambda: httpx.get(models).status_code == 200, 5)
        site = Site(folder, cores, port, options.nice)
        running, missing = start_variants(site, options.only or list(VARIANTS), stack)
        loader = Loader(loader_binary, folder)
        for variant in running:
            warm_up(loader, variant)
        samples = []
        for sample in rounds(loader, running, effort, options.rounds):
            samples.append(sample)
            print(f"round {sample.round + 1}/{options.rounds} {sample.line()}", file=sys.stderr)
        result = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": where,
            "options": {"rounds": options.rounds, "quick": options.quick, "nice": options.nice},
            "labels": {variant.name: variant.label for variant in running},
            "missing": missing,
            "resident_bytes": {v.name: v.process.resident_bytes() for v in running if v.process is not None},
            "samples": [sample.as_dict() for sample in samples],
            "memory": None,
        }
        write(options.output, judged(result, Samples(samples)))  # Kept if what follows is interrupted.
        ours = [variant for variant in running if variant.name == GATEWAY]
        if ours and options.memory_requests:
            print(f"memory along {options.memory_requests:,} requests", file=sys.stderr)
            warmup = options.memory_requests // 10
            result["memory"] = memory(loader, ours[0], options.memory_requests, warmup)
            write(options.output, judged(result, Samples(samples)))
        return result


def judged(result: dict[str, Any], samples: Samples) -> dict[str, Any]:
    """The result with its tables and verdicts."""
    found = verdicts(samples, result["memory"]) if GATEWAY in samples.variants else []
    result["tables"] = tables(samples, result["labels"], result["resident_bytes"])
    result["verdicts"] = [{"target": v.target, "measured": v.measured, "met": v.met} for v in found]
    result["lines"] = [v.line() for v in found]
    return result


def write(path: Path, result: dict[str, Any]) -> None:
    """Keep the result as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))


def machine(cores: Cores) -> dict[str, Any]:
    """Where and with what it was measured."""
    models = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "cpu": models[0].partition(":")[2].strip() if models else platform.machine(),
        "cores": os.cpu_count(),
        "proxy_core": cores.proxy,
        "other_core": cores.rest,
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def main() -> int:
    """Measure, print, write; 1 if a target was missed or nothing could be measured."""
    options = parse(sys.argv[1:])
    # End as after an error: servers stopped, scratch folder removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cores = Cores.choose()
    if not options.quick and (not options.only or "litellm" in options.only):
        try:
            install_litellm()
        except CannotMeasure as error:
            print(error, file=sys.stderr)
    try:
        with placed(cores, options.nice):
            result = run(options, cores)
    except CannotMeasure as error:
        print(error, file=sys.stderr)
        return 1
    print(f"\n{result['tables']}\n")
    print("\n".join(result["lines"]))
    print(f"\nwritten: {options.output}")
    return int(any(verdict["met"] is False for verdict in result["verdicts"]))


if __name__ == "__main__":
    sys.exit(main())
