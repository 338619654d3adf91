"""Databases that can be cut off."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.jobs.faults import PostgresCut, SqliteCut


@pytest.fixture
def sqlite_cut(tmp_path: Path) -> SqliteCut:
    """An SQLite jobs database."""
    return SqliteCut(f"sqlite:///{tmp_path / 'jobs.db'}")


@pytest.fixture
def postgres_cut(postgres_url: str) -> Iterator[PostgresCut]:
    """A PostgreSQL jobs database behind a proxy. Paths of sockets must be short."""
    with tempfile.TemporaryDirectory() as folder:
        yield PostgresCut(postgres_url, Path(folder) / "proxy")


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> SqliteCut | PostgresCut:
    """The same test on both; the parameter's marks say when."""
    name = "sqlite_cut" if request.param == "sqlite" else "postgres_cut"
    cut: SqliteCut | PostgresCut = request.getfixturevalue(name)
    return cut
