"""The gold queries of the two bundles, as the gate must let them pass."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

_CHOICE = re.compile(r"\{(.+?)\}")
_ALIAS = re.compile(r"\s+AS\s+\w+", re.IGNORECASE)


def gold_queries(shared_data: Path) -> Iterator[tuple[str, str, str]]:
    """(dialect, database, SQL) of every gold query; optional columns are all taken."""
    root = shared_data / "text2sql"
    for record in json.loads((root / "spider-dev" / "dev.json").read_text()):
        yield "sqlite", record["db_id"], record["query"]
    for file in sorted((root / "defog-sql-eval" / "questions").glob("*.csv")):
        dialect = file.stem.rsplit("_", 1)[-1]
        if dialect in ("sqlite", "postgres", "mysql"):
            with file.open(newline="") as lines:
                for row in csv.DictReader(lines):
                    for query in _alternatives(row["query"]):
                        yield dialect, row["db_name"], query


def database_file(shared_data: Path, name: str) -> Path:
    """The SQLite file of a database of either bundle."""
    root = shared_data / "text2sql"
    return next(
        path
        for path in (
            root / "spider-dev" / "databases" / name / f"{name}.sqlite",
            root / "defog-sql-eval" / "databases" / f"{name}.sqlite",
        )
        if path.exists()
    )


def _alternatives(gold: str) -> list[str]:
    """Accepted queries are separated by `;`; `{a, b}` means any of these columns, here all."""
    queries = []
    for part in filter(None, (piece.strip() for piece in gold.split(";"))):
        choice = _CHOICE.search(part)
        query = part
        if choice:
            grouped = ",".join(_ALIAS.sub("", column) for column in choice[1].split(","))
            query = (part[: choice.start()] + choice[1] + part[choice.end() :]).replace("{}", grouped)
        queries.append(query)
    return queries
