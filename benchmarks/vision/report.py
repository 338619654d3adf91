"""Tables on the screen, JSON in results/."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from services.vision.answers import versions

RESULTS = Path(__file__).parent / "results"


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A Markdown table."""
    widths = [max(len(line[index]) for line in (head, *rows)) for index in range(len(head))]
    for line in (head, ["-" * width for width in widths], *rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |")
    print()


def write_json(name: str, content: dict[str, Any]) -> Path:
    """Write results with the versions they depend on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    document = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": versions(),
        **content,
    }
    path.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2, default=_plain))
    return path


def read_json(name: str) -> dict[str, Any] | None:
    """The last results, None where there are none of the same versions."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return None
    document: dict[str, Any] = orjson.loads(path.read_bytes())
    return document if document["versions"] == versions() else None


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(type(value).__name__)
