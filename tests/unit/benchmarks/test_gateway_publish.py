"""From a result to the page: everything measured is there, the words around it stay."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.gateway.publish import BEGIN, END, PAGE, insert, section

RESULT: dict[str, Any] = {
    "at": "2026-01-02T03:04:05+00:00",
    "machine": {
        "cpu": "Z80", "cores": 2, "proxy_core": 0, "other_core": 1, "load_average": [1.5, 1, 1],
        "python": "3.11.7", "packages": {"uvicorn": "1.2"},
    },
    "options": {"rounds": 4, "quick": False, "nice": -5},
    "tables": "| a table |",
    "verdicts": [
        {"target": "fast", "measured": "7", "met": True},
        {"target": "small", "measured": "9", "met": False},
        {"target": "known", "measured": "-", "met": None},
    ],
    "memory": {"resident_bytes": [1 << 20, 3 << 19]},
    "missing": {"nginx": "it is not installed\nlong story"},
}  # fmt: skip


def test_everything_is_said() -> None:
    text = section(RESULT)
    for part in ("2026-01-02", "Z80", "rounds: 4", "priority -5", "uvicorn 1.2", "| a table |", "1.0 1.5."):
        assert part in text
    assert "| fast | 7 | met |" in text
    assert "| small | 9 | **missed** |" in text
    assert "| known | - | not measured |" in text
    assert text.endswith("Not measured: nginx (it is not installed).")


def test_only_the_marked_part_changes() -> None:
    page = f"# Title\n{BEGIN}\nold\n{END}\nThe end.\n"
    assert insert(page, "new") == f"# Title\n{BEGIN}\nnew\n{END}\nThe end.\n"
    with pytest.raises(ValueError, match="lacks"):
        insert("# Title", "new")


def test_the_real_page_has_its_markers() -> None:
    assert "new" in insert(PAGE.read_text(), "new")
