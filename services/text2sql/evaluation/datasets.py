"""Question sets with gold SQL and runnable databases: spider-dev, defog-sql-eval, or one's own file.

Reads files only. A question may accept several gold queries; one that the database cannot answer has
none (`answerable` false).
"""

from __future__ import annotations

import csv
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.text2sql.pisql.objects import Example
from services.text2sql.pisql.stages.s1_catalogue import Semantics

_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Item:
    """One question. `gold` holds every accepted statement; empty when it cannot be answered."""

    id: str
    database: str
    question: str
    gold: tuple[str, ...]
    evidence: str = ""
    difficulty: str = ""
    answerable: bool = True


@dataclass(frozen=True, slots=True)
class Dataset:
    """Questions with the SQLAlchemy URL and the semantics of each database they ask."""

    name: str
    items: tuple[Item, ...]
    databases: Mapping[str, str]
    semantics: Mapping[str, Semantics] = field(default_factory=dict)

    def limited(self, count: int) -> Dataset:
        """Every k-th question, so that all databases and difficulties stay represented."""
        if count >= len(self.items):
            return self
        step = len(self.items) / count
        chosen = tuple(self.items[int(index * step)] for index in range(count))
        return Dataset(self.name, chosen, self.databases, self.semantics)


def sqlite_url(path: Path) -> str:
    """The SQLAlchemy URL of a SQLite file."""
    return f"sqlite:///{path.resolve().as_posix()}"


def spider_dev(folder: Path) -> Dataset:
    """The Spider development questions of a folder with dev.json and databases/."""
    records = json.loads((folder / "dev.json").read_text(encoding="utf-8"))
    items = tuple(
        Item(
            id=f"spider-{record['question_id']}",
            database=record["db_id"],
            question=record["question"],
            gold=(record["query"],),
            difficulty=record["hardness"],
        )
        for record in records
    )
    names = sorted({item.database for item in items})
    return Dataset(
        "spider-dev",
        items,
        {name: sqlite_url(folder / "databases" / name / f"{name}.sqlite") for name in names},
    )


def expand_gold(text: str) -> tuple[str, ...]:
    """Accepted statements of a defog gold text: `;` separates, `{a, b}` means any non-empty subset."""
    found: dict[str, None] = {}
    for statement in text.split(";"):
        if not statement.strip():
            continue
        match = _BRACES.search(statement)
        if match is None:
            found[statement.strip()] = None
            continue
        names = [name.strip() for name in match[1].split(",") if name.strip()]
        for size in range(1, len(names) + 1):
            for chosen in itertools.combinations(names, size):
                listed = ", ".join(chosen)
                filled = statement.replace(match[0], listed, 1)
                found[_BRACES.sub(listed, filled).strip()] = None
    return tuple(found)


_DEFOG_FILES = ("questions_gen_sqlite", "instruct_basic_sqlite", "instruct_advanced_sqlite")


def defog_sql_eval(folder: Path, *, unanswerable: bool = True) -> Dataset:
    """The defog questions (SQLite gold) with descriptions, and those that cannot be answered."""
    items: list[Item] = []
    for name in _DEFOG_FILES:
        for number, record in enumerate(_records(folder / "questions" / f"{name}.csv")):
            items.append(
                Item(
                    id=f"{name}-{number}",
                    database=record["db_name"],
                    question=record["question"],
                    gold=expand_gold(record["query"]),
                    evidence=record.get("full_instructions") or record.get("instructions") or "",
                    difficulty=record["query_category"],
                )
            )
    if unanswerable:
        for number, record in enumerate(_records(folder / "questions" / "idk.csv")):
            items.append(
                Item(
                    id=f"idk-{number}",
                    database=record["db_name"],
                    question=record["question"],
                    gold=(),
                    difficulty=record["query_category"],
                    answerable=False,
                )
            )
    names = sorted(path.stem for path in (folder / "databases").glob("*.sqlite"))
    return Dataset(
        "defog-sql-eval",
        tuple(item for item in items if item.database in names),
        {name: sqlite_url(folder / "databases" / f"{name}.sqlite") for name in names},
        {name: _defog_semantics(folder / "metadata" / f"{name}.json") for name in names},
    )


def _records(path: Path) -> Iterable[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _defog_semantics(path: Path) -> Semantics:
    if not path.exists():
        return Semantics()
    metadata = json.loads(path.read_text(encoding="utf-8"))["table_metadata"]
    return Semantics(
        descriptions={
            f"{table}.{column['column_name']}": column["column_description"]
            for table, columns in metadata.items()
            for column in columns
            if column.get("column_description")
        }
    )


def jsonl(path: Path, databases: Mapping[str, str]) -> Dataset:
    """One's own questions: JSON Lines of {question, database, gold: [sql], evidence?, difficulty?}."""
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        if line.strip():
            record = json.loads(line)
            items.append(
                Item(
                    id=str(record.get("id", number)),
                    database=record["database"],
                    question=record["question"],
                    gold=tuple(record.get("gold", ())),
                    evidence=record.get("evidence", ""),
                    difficulty=record.get("difficulty", ""),
                    answerable=bool(record.get("gold")),
                )
            )
    return Dataset(path.stem, tuple(items), databases)


def example_databases(names: Sequence[str]) -> frozenset[str]:
    """The half of the databases whose pairs may serve as examples, chosen by hash of the name."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    return frozenset(ranked[: len(ranked) // 2])


def examples_for(dataset: Dataset, database: str) -> tuple[Example, ...]:
    """Pairs a question of `database` may see: those of the example half, never its own database's."""
    half = example_databases(sorted(dataset.databases))
    return tuple(
        Example(id=item.id, database_id=item.database, question=item.question, sql=item.gold[0])
        for item in dataset.items
        if item.gold and item.database in half and item.database != database
    )
