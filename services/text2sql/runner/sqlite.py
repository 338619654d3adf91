"""SQLite, read-only: file opened with mode=ro, an authorizer, a deadline in the progress handler.

The authorizer allows reading the admitted tables, and functions by name; everything else an SQL
text could do (ATTACH, PRAGMA, writing, transactions, VACUUM INTO) is refused by
SQLite when the text is compiled.
"""

import sqlite3
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import quote

from services.text2sql.gate.vocabulary import ANONYMOUS
from services.text2sql.runner.connection import Address, ReadOnlyConnection, Stopwatch, fetch
from services.text2sql.runner.contract import DatabaseTarget, QueryError, QueryResult

_STEPS = 2_000  # virtual machine steps between looks at the clock, about 50 microseconds
_TEXT_BYTES = 16 << 20
_FUNCTIONS = ANONYMOUS["sqlite"] | {
    *("current_date", "current_time", "current_timestamp", "match", "iif", "ifnull", "instr", "likelihood"),
    *(
        "acos",
        "acosh",
        "asin",
        "asinh",
        "atan",
        "atan2",
        "atanh",
        "ceil",
        "ceiling",
        "cos",
        "cosh",
        "degrees",
    ),
    *("ln", "log", "log10", "log2", "mod", "pi", "radians", "sin", "sinh", "tan", "tanh", "trunc"),
    *("json_each", "json_tree", "printf", "format", "stddev", "variance", "->", "->>"),
}
_TABLE_FUNCTIONS = frozenset({"json_each", "json_tree"})
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: _TEXT_BYTES,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1_000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 500,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


class SQLiteConnection(ReadOnlyConnection):
    """A read-only connection to one SQLite file."""

    def __init__(self, target: DatabaseTarget) -> None:
        """Raises QueryError `database_unavailable`."""
        file = Path(Address(target).file).absolute()
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(str(file))}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
        except sqlite3.Error as error:
            raise QueryError("database_unavailable", f"SQLite: {error}") from None
        self._connection.text_factory = lambda text: text.decode("utf-8", "replace")
        for pragma in ("query_only=ON", "trusted_schema=OFF", "temp_store=MEMORY", "mmap_size=0"):
            self._connection.execute(f"PRAGMA {pragma}")
        for name in _TABLE_FUNCTIONS:  # makes their tables, which the authorizer would not allow
            self._connection.execute(f"SELECT 1 FROM {name}('[]')").fetchall()
        rows = self._connection.execute("SELECT lower(name), type FROM sqlite_schema").fetchall()
        self._kinds: dict[str, str] = dict(rows)
        self._authorizers: dict[frozenset[str], _Authorizer] = {}
        for limit, value in _LIMITS.items():
            self._connection.setlimit(limit, value)

    def _execute(self, sql: str, timeout_s: float, row_cap: int, tables: Collection[str]) -> QueryResult:
        self._connection.set_authorizer(self._authorizer(tables))
        deadline = time.monotonic() + timeout_s
        self._connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS)
        watch = Stopwatch()
        cursor = self._connection.cursor()
        try:
            cursor.execute(sql)
            columns = tuple(column[0] for column in cursor.description or ())
            rows, truncated = fetch(cursor.fetchmany, row_cap)
        except (sqlite3.Error, sqlite3.Warning, UnicodeError) as error:
            if "interrupted" in str(error):
                raise QueryError("sql_timeout", f"not done after {timeout_s:g} s") from None
            raise QueryError("sql_error", str(error)) from None
        finally:
            cursor.close()
            self._connection.set_progress_handler(None, 0)
        if not columns:
            raise QueryError("sql_error", "not a query")
        return QueryResult(columns, rows, truncated, watch.seconds())

    def close(self) -> None:
        self._connection.close()

    def _authorizer(self, tables: Collection[str]) -> "_Authorizer":
        admitted = frozenset(name.lower().removeprefix("main.") for name in tables)
        if admitted not in self._authorizers:
            views = [name for name in admitted if self._kinds.get(name) == "view"]
            behind = frozenset().union(*(self._behind(view) for view in views))
            self._authorizers[admitted] = _Authorizer(admitted, behind, self._kinds)
        return self._authorizers[admitted]

    def _behind(self, view: str) -> frozenset[str]:
        """The tables and views that a view reads, through others too."""
        read: set[str] = set()

        def record(action: int, first: str | None, _second: str | None, *_: str | None) -> int:
            if action == sqlite3.SQLITE_READ:
                read.add((first or "").lower())
            return sqlite3.SQLITE_OK

        self._connection.set_authorizer(record)
        name = view.replace('"', '""')
        try:
            self._connection.execute(f'SELECT * FROM "{name}" LIMIT 0').fetchall()
        except sqlite3.Error:
            return frozenset()  # a broken view; its query will say so
        return frozenset(read)


class _Authorizer:
    """Allows reading the admitted tables, what admitted views read, and functions by name."""

    def __init__(self, admitted: frozenset[str], behind: frozenset[str], kinds: Mapping[str, str]) -> None:
        self._admitted, self._behind, self._kinds = admitted | _TABLE_FUNCTIONS, behind, kinds

    def __call__(
        self, action: int, first: str | None, second: str | None, database: str | None, view: str | None
    ) -> int:
        allowed = action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)
        if action == sqlite3.SQLITE_READ:
            allowed = self._may_read((first or "").lower(), second, database, (view or "").lower())
        elif action == sqlite3.SQLITE_FUNCTION:
            allowed = (second or "").lower() in _FUNCTIONS
        return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY

    def _may_read(self, name: str, column: str | None, database: str | None, view: str) -> bool:
        if name in self._admitted:
            return True
        if name in self._behind and self._kinds.get(view) == "view":
            return True
        # counting the rows of a common table expression reads no column of no database
        counted = not column and database is None
        return counted and name not in self._kinds and not name.startswith(("sqlite_", "pragma_"))
