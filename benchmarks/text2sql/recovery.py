"""What do checking, repair and selection recover? Curves of input error rate against final EX.

`python -m benchmarks.text2sql.recovery [--questions 60] [--kinds failures mixture]`

Every kind of error is tried alone, with and without the mechanism made for it, and then all together. The
oracle is the same for each configuration, which lacks one mechanism.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from benchmarks.text2sql.common import RESULTS, spider_folder, write_json
from benchmarks.text2sql.oracle import Rates, ScriptedOracle, truths_of
from services.text2sql.evaluation import ablations
from services.text2sql.evaluation.datasets import spider_dev
from services.text2sql.evaluation.environment import Environment
from services.text2sql.evaluation.harness import Harness, Record, evaluate
from services.text2sql.evaluation.report import plot_curves, summarise
from services.text2sql.evaluation.significance import compare
from services.text2sql.pisql.configuration import Profile

ERRORS = (0.0, 0.2, 0.4, 0.6, 0.8)

Found = dict[float, dict[str, dict[str, Record]]]
"""Records by error rate, configuration and question."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of error: what the oracle does at a rate, and the configurations it is told by."""

    title: str
    rates: Callable[[float], Rates]
    configurations: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]


def rates_at(error: float) -> Rates:
    """All kinds together: a question is misread `error` often; each slip and failure is a quarter as likely.

    That writing down is easier than reading, and alike in both languages, is assumed here.
    """
    part = error / 4
    return Rates(
        program_error=error,
        direct_error=error,
        program_slip=part,
        sql_slip=part,
        program_crash=part,
        broken=part,
    )


KINDS = {
    "misreadings": Kind(
        "The question is misread",
        lambda error: Rates(program_error=error, direct_error=error),
        ("direct", "fast", "standard", "no_reference_check", "dry_programs"),
        (("standard", "direct"), ("standard", "no_reference_check"), ("standard", "dry_programs")),
    ),
    "failures": Kind(
        "Programs and SQL fail when run",
        lambda error: Rates(program_crash=error, broken=error),
        ("direct", "direct_no_repair", "fast", "fast_no_repair", "standard", "no_repair"),
        (("direct", "direct_no_repair"), ("fast", "fast_no_repair"), ("standard", "no_repair")),
    ),
    "sql_slips": Kind(
        "SQL departs from its plan",
        lambda error: Rates(sql_slip=error),
        ("direct", "fast", "fast_no_repair", "standard", "no_mismatch_repair", "no_reference_check"),
        (
            ("fast", "fast_no_repair"),
            ("standard", "no_mismatch_repair"),
            ("standard", "no_reference_check"),
        ),
    ),
    "program_slips": Kind(
        "Programs depart from their plan",
        lambda error: Rates(program_slip=error),
        ("fast", "fast_no_repair", "standard", "no_counter_check"),
        (("fast", "fast_no_repair"), ("standard", "no_counter_check")),
    ),
    "mixture": Kind(
        "All together",
        rates_at,
        ("direct", "fast", "fast_no_repair", "standard", "no_repair", "no_reference_check", "dry_programs"),
        (
            ("standard", "direct"),
            ("fast", "fast_no_repair"),
            ("standard", "no_repair"),
            ("standard", "no_reference_check"),
            ("standard", "dry_programs"),
        ),
    ),
}


async def curve(environment: Environment, kind: Kind, questions: int, errors: tuple[float, ...]) -> Found:
    """Records of one kind of error."""
    truths = truths_of(environment, environment.dataset.items)
    items = [item for item in environment.dataset.items if item.id in truths][:questions]
    found: Found = {}
    for error in errors:
        harness = Harness(environment, ScriptedOracle(truths, kind.rates(error)))
        started = time.perf_counter()
        found[error] = await evaluate(harness, items, ablations.configurations(kind.configurations))
        print(f"{kind.title}, {error:.1f}: {time.perf_counter() - started:.0f} s", flush=True)
    return found


def table(found: Mapping[float, Mapping[str, Mapping[str, Record]]]) -> str:
    """EX by error rate, and what `verified` is worth in `standard`."""
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


def worth(found: Found, pairs: tuple[tuple[str, str], ...]) -> dict[str, tuple[float, float, float, float]]:
    """What a mechanism adds over all error rates above 0: EX difference, its 95 % interval, McNemar's p."""
    added = {}
    for with_it, without in pairs:
        keys = [(error, key) for error in found if error for key in found[error][with_it]]
        result = compare(
            [found[error][without][key].ex_set for error, key in keys],
            [found[error][with_it][key].ex_set for error, key in keys],
        )
        added[f"{with_it} - {without}"] = (result.difference, result.low, result.high, result.p_value)
    return added


def worth_table(added: Mapping[str, Mapping[str, tuple[float, float, float, float]]]) -> str:
    """What every mechanism adds, by kind of error."""
    lines = ["| errors | compared | EX difference | 95 % interval | McNemar p |", "|---|---|---:|---:|---:|"]
    for kind, pairs in added.items():
        for name, (difference, low, high, p_value) in pairs.items():
            lines.append(
                f"| {kind} | {name} | {difference:+.1f} | {low:+.1f} .. {high:+.1f} | {p_value:.2g} |"
            )
    return "\n".join(lines)


def picture(summaries: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> bytes:
    """EX by error rate, a panel for each kind of error; what lacks a mechanism is dashed."""
    panels = {
        KINDS[kind].title: {
            name: [(float(error), by_name[name]["ex_set"]) for error, by_name in by_error.items()]
            for name in KINDS[kind].configurations
        }
        for kind, by_error in summaries.items()
    }
    dashed = set(ablations.NAMES) - set(Profile)
    return plot_curves(panels, x="error rate of the model", y="EX", dashed=dashed)


def main() -> None:
    """Run, print the tables, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS))
    arguments = parser.parse_args()
    dataset = spider_dev(spider_folder()).limited(arguments.questions + 5)
    found = {}
    with Environment(dataset) as environment:
        for name in arguments.kinds:
            found[name] = asyncio.run(curve(environment, KINDS[name], arguments.questions, ERRORS))
            print(f"\n{KINDS[name].title}\n\n{table(found[name])}\n", flush=True)
    added = {name: worth(records, KINDS[name].pairs) for name, records in found.items()}
    print(worth_table(added))
    summaries = {
        kind: {
            str(error): {name: summarise(list(records.values())) for name, records in by_name.items()}
            for error, by_name in by_error.items()
        }
        for kind, by_error in found.items()
    }
    write_json("recovery", {"summaries": summaries, "worth": added})
    (RESULTS / "recovery.png").write_bytes(picture(summaries))


if __name__ == "__main__":
    main()
