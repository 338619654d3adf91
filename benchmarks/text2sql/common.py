"""What the benchmarks of text2sql share: where the data lies, where results go."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

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
