"""What every engine's read-only connection has in common: fetching under caps, closing, errors."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, unquote, urlsplit

from services.text2sql.gate import AdmittedStatement
from services.text2sql.runner.contract import DatabaseTarget, QueryError, QueryResult

RESULT_BYTES = 64 << 20
"""The most a result may weigh in this process; cells that are no text count 16 bytes."""
_BATCH = 1_000


class ReadOnlyConnection(ABC):
    """An open connection that cannot write, for one thread at a time. Close it, or use `with`."""

    def run(
        self, admitted: AdmittedStatement, timeout_s: float = 10.0, row_cap: int | None = None
    ) -> QueryResult:
        """Run one admitted statement; at most `row_cap` rows (the statement's own cap by default).

        Raises QueryError. Whatever happens the transaction is rolled back.
        """
        cap = admitted.row_cap if row_cap is None else row_cap
        return self._execute(admitted.sql, timeout_s, cap, admitted.tables)

    def plan_cost(self, admitted: AdmittedStatement) -> float | None:
        """The planner's cost of the statement, in the engine's unit; None where it has none."""
        return None

    @abstractmethod
    def _execute(self, sql: str, timeout_s: float, row_cap: int, tables: Collection[str]) -> QueryResult:
        """Run a text under the engine's own protection alone. Raises QueryError.

        `tables` are those the statement may read, for engines that can hold it to them.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the connection back to the engine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def fetch(
    fetch_many: Callable[[int], Sequence[Sequence[Any]]], row_cap: int, byte_cap: int = RESULT_BYTES
) -> tuple[list[tuple[Any, ...]], bool]:
    """Up to `row_cap` rows and whether there were more. Raises QueryError over the byte cap."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    while len(rows) <= row_cap:
        batch = fetch_many(min(_BATCH, row_cap + 1 - len(rows)))
        if not batch:
            break
        for row in batch:
            size += sum(len(cell) if isinstance(cell, str | bytes) else 16 for cell in row)
            rows.append(tuple(row))
        if size > byte_cap:
            raise QueryError("result_too_large", f"the result is larger than {byte_cap >> 20} MiB")
    return rows[:row_cap], len(rows) > row_cap


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start


class Address:
    """The parts of a target's URL, unquoted."""

    def __init__(self, target: DatabaseTarget) -> None:
        parts = urlsplit(target.url)
        self.path = unquote(parts.path)
        self.host = parts.hostname or "localhost"
        self.port = parts.port
        self.user = unquote(parts.username) if parts.username is not None else None
        self.password = unquote(parts.password) if parts.password is not None else None
        self.options = dict(parse_qsl(parts.query))

    @property
    def database(self) -> str:
        """The name of a server's database."""
        return self.path.lstrip("/")

    @property
    def file(self) -> str:
        """The path of a file database: `sqlite:///relative`, `sqlite:////absolute`.

        Raises QueryError for a database that is no file.
        """
        path = self.path[1:]
        if not path or ":memory:" in path:
            raise QueryError("database_unavailable", "a database in memory cannot be queried; name a file")
        return path
