"""What the benchmarks of text2sql share: where the data lies, where results go."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from services.text2sql.evaluation.datasets import Dataset, example_databases, spider_dev

HALVES = ("reporting", "development", "all")
RESULTS = Path(__file__).parent / "results"
_DEFAULT_DATA = Path(__file__).parents[3] / "shared" / "data"


def data_folder() -> Path:
    """The folder of real data sets; ends the program with a sentence when it is absent."""
    folder = Path(os.environ.get("LATTICEWORK_SHARED_DATA", _DEFAULT_DATA)) / "text2sql"
    if not folder.is_dir():
        raise SystemExit("the data sets are not here; set LATTICEWORK_SHARED_DATA to their folder")
    return folder


def spider_folder() -> Path:
    """The folder of spider-dev."""
    return data_folder() / "spider-dev"


def write_json(name: str, content: Any) -> Path:
    """Write a result under results/."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def questions_of(half: str, count: int) -> Dataset:
    """Every k-th question of the databases of a half, in an order that leaves a fair sample at any end."""
    whole = spider_dev(spider_folder())
    development = example_databases(sorted(whole.databases))
    items = tuple(
        item
        for item in whole.items
        if half == "all" or (item.database in development) is (half == "development")
    )
    chosen = dataclasses.replace(whole, items=items).limited(count)
    mixed = sorted(chosen.items, key=lambda item: hashlib.sha256(item.id.encode()).hexdigest())
    return dataclasses.replace(chosen, items=tuple(mixed))
