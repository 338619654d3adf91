"""SQLite, read-only: file opened with mode=ro, an authorizer, a deadline in the progress handler.

The authorizer allows reading tables that are not the schema's, and functions by name; everything
else an SQL text could do (ATTACH, PRAGMA, writing, transactions, VACUUM INTO) is refused by
SQLite when the text is compiled.
"""

import sqlite3
import time
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
    *("json_each", "json_tree", "stddev", "variance", "->", "->>"),
}
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
        for limit, value in _LIMITS.items():
            self._connection.setlimit(limit, value)
        self._connection.set_authorizer(_authorize)

    def _execute(self, sql: str, timeout_s: float, row_cap: int) -> QueryResult:
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


def _authorize(
    action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None
) -> int:
    if action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE):
        return sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_READ:
        hidden = (first or "").lower().startswith(("sqlite_", "pragma_"))
        return sqlite3.SQLITE_DENY if hidden else sqlite3.SQLITE_OK
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_OK if (second or "").lower() in _FUNCTIONS else sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_DENY
