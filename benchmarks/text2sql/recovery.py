"""What do checking, repair and selection recover? Curves of input error rate against final EX.

`python -m benchmarks.text2sql.recovery [--questions 60]`

The oracle misreads a question at the given rate, in programs and in direct SQL alike, and slips half as often
when it translates a program; each configuration sees the same oracle and lacks one mechanism.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Mapping

from benchmarks.text2sql.common import RESULTS, spider_folder, write_json
from benchmarks.text2sql.oracle import Rates, ScriptedOracle, truths_of
from services.text2sql.evaluation import ablations
from services.text2sql.evaluation.datasets import spider_dev
from services.text2sql.evaluation.environment import Environment
from services.text2sql.evaluation.harness import Harness, Record, evaluate
from services.text2sql.evaluation.report import plot_curves, summarise
from services.text2sql.evaluation.significance import compare

RATES = (0.0, 0.2, 0.4, 0.6, 0.8)
CONFIGURATIONS = ("direct", "fast", "standard", "no_repair", "no_reference_check", "dry_programs")


def rates_at(error: float) -> Rates:
    """Errors at one level: reading a question fails `error` often, translating a program half as often.

    That translation is the easier task is the paper's premise, not a finding of this benchmark.
    """
    return Rates(
        program_error=error,
        sql_slip=error / 2,
        direct_error=error,
        program_crash=error / 4,
        broken=error / 4,
    )


async def curves(
    environment: Environment, questions: int, rates: tuple[float, ...], names: tuple[str, ...]
) -> dict[float, dict[str, dict[str, Record]]]:
    """Records by error rate and configuration."""
    truths = truths_of(environment, environment.dataset.items)
    items = [item for item in environment.dataset.items if item.id in truths][:questions]
    found = {}
    for error in rates:
        harness = Harness(environment, ScriptedOracle(truths, rates_at(error)))
        started = time.perf_counter()
        found[error] = await evaluate(harness, items, ablations.configurations(names))
        print(f"error rate {error:.1f}: {time.perf_counter() - started:.0f} s", flush=True)
    return found


def table(found: Mapping[float, Mapping[str, Mapping[str, Record]]]) -> str:
    """EX by error rate, and what `verified` is worth."""
    names = list(next(iter(found.values())))
    lines = ["| error rate | " + " | ".join(names) + " | verified | its precision | precision of the rest |"]
    lines.append("|---|" + "---:|" * (len(names) + 3))
    for error, records in found.items():
        ex = [f"{summarise(list(records[name].values()))['ex_set']:.1f}" for name in names]
        best = summarise(list(records["standard"].values()))
        verified = [
            f"{best[key]:.1f}" for key in ("verified_rate", "verified_precision", "unverified_precision")
        ]
        lines.append(f"| {error:.1f} | {' | '.join([*ex, *verified])} |")
    return "\n".join(lines)


def main() -> None:
    """Run, print the table, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=60)
    arguments = parser.parse_args()
    dataset = spider_dev(spider_folder()).limited(arguments.questions + 5)
    with Environment(dataset) as environment:
        found = asyncio.run(curves(environment, arguments.questions, RATES, CONFIGURATIONS))
    print(table(found))
    summary = {
        str(error): {name: summarise(list(records.values())) for name, records in by_name.items()}
        for error, by_name in found.items()
    }
    comparisons = {}
    for error, by_name in found.items():
        keys = list(by_name["direct"])
        for name in CONFIGURATIONS:
            if name != "standard":
                result = compare(
                    [by_name[name][key].ex_set for key in keys],
                    [by_name["standard"][key].ex_set for key in keys],
                )
                comparisons[f"{error}: standard - {name}"] = [result.difference, result.p_value]
    write_json("recovery", {"summaries": summary, "comparisons": comparisons})
    lines = {
        name: [(error, summary[str(error)][name]["ex_set"]) for error in found] for name in CONFIGURATIONS
    }
    picture = plot_curves(lines, x="error rate of the model", y="EX", title="What each mechanism recovers")
    (RESULTS / "recovery.png").write_bytes(picture)


if __name__ == "__main__":
    main()
