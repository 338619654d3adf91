"""Overhead of Pi-SQL without the model: time per question by profile, and where it goes.

`python -m benchmarks.text2sql.overhead [--questions 100]`

The model is the oracle without errors; its own time is measured and left out of the wall time. CPU time is
that of this process and of the sandbox's, the oracle included; other work on the machine does not add to it.
Caches of parsed statements are emptied between profiles, which ask the same questions; `other` is what no
stage accounts for: opening the database, assembling the answer.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import statistics
import time
from collections import defaultdict

from benchmarks.text2sql.common import spider_folder, write_json
from benchmarks.text2sql.oracle import Rates, ScriptedOracle, Truth
from services.text2sql.evaluation import ablations
from services.text2sql.evaluation.datasets import spider_dev
from services.text2sql.evaluation.environment import Environment
from services.text2sql.evaluation.harness import Harness
from services.text2sql.pisql.translation import translate
from services.text2sql.pisql.translation_expressions import UntranslatableError

PROFILES = ("direct", "fast", "standard")
STAGES = (
    "values",
    "admit",
    "linking",
    "examples",
    "programs",
    "sandbox",
    "sql",
    "checking",
    "repair",
    "selection",
    "other",
)


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def _forget() -> None:
    """Empty every cache of a function in this process."""
    for found in gc.get_objects():
        if isinstance(found, functools._lru_cache_wrapper):
            found.cache_clear()


async def measure(environment: Environment, questions: int) -> dict[str, dict[str, float]]:
    """Milliseconds by profile: p50, p95 of the whole and p50 of every stage, model time left out."""
    truths = {}
    for item in environment.dataset.items:
        schema = environment.knowledge(item.database).schema
        try:
            translate(item.gold[0], schema)
        except UntranslatableError:
            continue
        truths[item.id] = Truth(item.gold[0], schema, ())
    items = [item for item in environment.dataset.items if item.id in truths][:questions]
    harness = Harness(environment, ScriptedOracle(truths, Rates()))
    found = {}
    for name in PROFILES:
        configuration = ablations.configuration(name)
        for item in items[:5]:
            await harness.run(item, configuration)
        _forget()
        spent: dict[str, list[float]] = defaultdict(list)
        for item in items:
            started = time.process_time()
            record, answer = await harness.run(item, configuration)
            own = (time.process_time() - started) * 1_000
            assert answer is not None
            spent["total"].append(record.overhead_ms)
            spent["cpu"].append(own + answer.budget.sandbox_cpu_seconds * 1_000)
            model = answer.timings_ms.get("model", 0.0)
            stages = {stage: answer.timings_ms.get(stage, 0.0) for stage in STAGES}
            # Writing programs and SQL contains the model's calls.
            writing = stages["programs"] + stages["sql"]
            share = max(0.0, 1 - model / writing) if writing else 0.0
            stages["programs"] *= share
            stages["sql"] *= share
            stages["other"] = max(0.0, record.overhead_ms - sum(stages.values()))
            for stage, value in stages.items():
                spent[stage].append(value)
        found[name] = {stage: statistics.median(values) for stage, values in spent.items()}
        found[name]["p95"] = _percentile(spent["total"], 0.95)
    return found


def main() -> None:
    """Run, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=100)
    arguments = parser.parse_args()
    dataset = spider_dev(spider_folder()).limited(arguments.questions + 5)
    with Environment(dataset) as environment:
        found = asyncio.run(measure(environment, arguments.questions))
    print("| profile | p50 ms | p95 ms | CPU p50 ms | " + " | ".join(STAGES) + " |")
    print("|---|---:|---:|---:|" + "---:|" * len(STAGES))
    for name, spent in found.items():
        cells = " | ".join(f"{spent[stage]:.1f}" for stage in STAGES)
        print(f"| {name} | {spent['total']:.1f} | {spent['p95']:.1f} | {spent['cpu']:.1f} | {cells} |")
    write_json("overhead", found)


if __name__ == "__main__":
    main()
