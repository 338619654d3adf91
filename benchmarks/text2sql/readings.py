"""How far do the readings of a question alone go, without any model?

`python -m benchmarks.text2sql.readings [--half reporting] [--questions 100]`

A small model chooses among the readings that a question's words leave open. This asks: how many are there, is
the right one among them (the ceiling of what the model can choose), is it the first (what words alone say),
and how often would a blind choice hit it. And what is it worth that all readings give the same rows, which is
what makes a small model's answer `verified`? Right is EX (set) on the database as it is.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence

from benchmarks.text2sql.common import HALVES, questions_of, write_json
from services.text2sql.adapters import Database
from services.text2sql.evaluation.datasets import Item
from services.text2sql.evaluation.environment import Environment
from services.text2sql.evaluation.metrics import execution_match_set, percentage
from services.text2sql.pisql import rendering
from services.text2sql.pisql.configuration import ValueSettings
from services.text2sql.pisql.errors import PiSqlError
from services.text2sql.pisql.objects import Row
from services.text2sql.pisql.readings import readings
from services.text2sql.pisql.results import bags_equal, canonical_rows
from services.text2sql.pisql.stages import s2_values


def right(environment: Environment, item: Item) -> tuple[list[bool], bool]:
    """For each reading, best first, whether its SQL gives gold's rows; and whether all give the same rows."""
    known = environment.knowledge(item.database)
    assert known.values is not None
    hits = s2_values.retrieve(
        s2_values.heuristic_keywords(item.question), known.values, known.schema, ValueSettings()
    )
    with environment.open(item.database) as database:
        gold = _rows(database, item.gold[0])
        results: list[Sequence[Row] | None] = []
        for reading in readings(known.schema, hits, item.question):
            try:
                results.append(_rows(database, rendering.sql(reading)))
            except PiSqlError:
                results.append(None)
    found = [rows is not None and execution_match_set(rows, gold) for rows in results]
    first = results[0]
    same = first is not None and all(rows is not None and bags_equal(rows, first) for rows in results)
    return found, same


def _rows(database: Database, sql: str) -> Sequence[Row]:
    admitted = database.admit(sql, 10_000)
    return canonical_rows(database.with_connection(lambda connection: connection.run(admitted)).rows)


def main() -> None:
    """Run, print a table by difficulty, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--half", choices=HALVES, default="reporting")
    parser.add_argument("--questions", type=int, default=100)
    arguments = parser.parse_args()
    dataset = questions_of(arguments.half, arguments.questions)
    groups: dict[str, list[tuple[list[bool], bool]]] = defaultdict(list)
    with Environment(dataset) as environment:
        for item in dataset.items:
            found = right(environment, item)
            groups[item.difficulty].append(found)
            groups["all"].append(found)
    print(
        "| difficulty | questions | readings | right one among them | right one first | blind choice | "
        "all give the same rows | right, of these | right, of the rest |"
    )
    print("|---|" + "---:|" * 8)
    results = {}
    for name in sorted(groups):
        members = [found for found, _ in groups[name]]
        agreed = [found[0] for found, same in groups[name] if same]
        parted = [found[0] for found, same in groups[name] if not same]
        figures = (
            sum(map(len, members)) / len(members),
            percentage([any(found) for found in members]),
            percentage([found[0] for found in members]),
            percentage([sum(found) / len(found) for found in members]),
            percentage([same for _, same in groups[name]]),
            percentage(agreed),
            percentage(parted),
        )
        results[name] = figures
        print(f"| {name} | {len(members)} | " + " | ".join(f"{value:.1f}" for value in figures) + " |")
    write_json(f"readings_{arguments.half}", results)


if __name__ == "__main__":
    main()
