"""Is the chosen SQL the fastest correct one? And: gold against gold, the noise floor of R-VES.

`python -m benchmarks.text2sql.selection [--questions 60] [--iterations 100]`

The oracle writes every statement with needless scans of differing number, except the `efficient` one. After
each answer all matching candidates are timed anew, longer and apart from the pipeline's own timing; a
question counts when they differ by more than 20 %, and it is won when the chosen one lies within 20 % of the
fastest.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import dataclass

from benchmarks.text2sql.common import spider_folder, write_json
from benchmarks.text2sql.oracle import Rates, ScriptedOracle, truths_of
from services.text2sql.adapters import GatedEngine
from services.text2sql.evaluation import ablations, metrics
from services.text2sql.evaluation.datasets import spider_dev
from services.text2sql.evaluation.environment import Environment
from services.text2sql.evaluation.harness import Harness
from services.text2sql.pisql.configuration import Limits, TimingSettings
from services.text2sql.pisql.objects import Answer, Match

DIFFER = 1.2
_PATIENT = TimingSettings(rounds=60, total_seconds=10.0, drop_factor=1e9)


@dataclass(frozen=True, slots=True)
class Selected:
    """Questions whose matching candidates differ, and those whose chosen one is the fastest."""

    differing: int
    fastest: int
    chosen_to_fastest: float


async def chosen_is_fastest(
    environment: Environment, answer: Answer, database: str
) -> tuple[bool, float] | None:
    """(won, chosen time / least time) on fresh timings; None when candidates do not differ."""
    matching = [candidate for candidate in answer.candidates if candidate.match is Match.MATCH]
    if len(matching) < 2:
        return None
    with environment.open(database) as opened:
        times = await GatedEngine(opened).time(
            [candidate.sql for candidate in matching], settings=_PATIENT, limits=Limits()
        )
    known = {item.id: ms for item, ms in zip(matching, times, strict=True) if ms is not None}
    least = min(known.values())
    if max(known.values()) < DIFFER * least or answer.chosen not in known:
        return None
    ratio = known[answer.chosen] / least
    return ratio <= DIFFER, ratio


async def select(environment: Environment, questions: int, slow: int = 3) -> Selected:
    """Ask with slow and fast forms of the same SQL."""
    truths = truths_of(environment, environment.dataset.items)
    items = [item for item in environment.dataset.items if item.id in truths][:questions]
    harness = Harness(environment, ScriptedOracle(truths, Rates(slow=slow)))
    configuration = ablations.configuration("standard", early_exit=False)
    found = []
    for item in items:
        _, answer = await harness.run(item, configuration)
        if answer is not None:
            result = await chosen_is_fastest(environment, answer, item.database)
            if result is not None:
                found.append(result)
    mean = sum(ratio for _, ratio in found) / len(found) if found else 0.0
    return Selected(len(found), sum(won for won, _ in found), mean)


def gold_against_gold(environment: Environment, questions: int, iterations: int) -> dict[str, float]:
    """R-VES of gold timed against itself: official and fair, and the share of pairs with tau >= 1."""
    harness = Harness(environment, ScriptedOracle({}, Rates()), timing_iterations=iterations)
    official, fair = [], []
    for item in environment.dataset.items[:questions]:
        one, other = harness.time_pair(item.database, item.gold[0], item.gold[0])
        official.append(one)
        fair.append(other)
    return {
        "questions": float(len(official)),
        "iterations": float(iterations),
        "r_ves_official": metrics.r_ves(official),
        "r_ves_fair": metrics.r_ves(fair),
        "tau_at_least_1_official": metrics.percentage([tau >= 1 for tau in official]),
        "tau_at_least_1_fair": metrics.percentage([tau >= 1 for tau in fair]),
    }


def main() -> None:
    """Run both, print them, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--iterations", type=int, default=100)
    arguments = parser.parse_args()
    dataset = spider_dev(spider_folder()).limited(arguments.questions)
    with Environment(dataset) as environment:
        chosen = asyncio.run(select(environment, arguments.questions))
        floor = gold_against_gold(environment, arguments.questions, arguments.iterations)
    share = 100 * chosen.fastest / chosen.differing if chosen.differing else 0.0
    print(
        f"chosen is the fastest correct one in {chosen.fastest} of {chosen.differing} questions "
        f"({share:.1f} %); "
        f"mean time against the fastest {chosen.chosen_to_fastest:.3f}"
    )
    for key, value in floor.items():
        print(f"gold against gold, {key}: {value:.1f}")
    write_json("selection", {"share": share, "differing": chosen.differing, "gold_against_gold": floor})


if __name__ == "__main__":
    main()
