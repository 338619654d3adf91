"""DuckDB, read-only: the file opened read-only, no access to anything outside it, settings locked.

DuckDB would run several statements in one text, so the text is split by its own parser first and
must be one SELECT. A timer interrupts at the deadline.
"""

import threading
from collections.abc import Collection
from pathlib import Path

import duckdb

from services.text2sql.runner.connection import Address, ReadOnlyConnection, Stopwatch, fetch
from services.text2sql.runner.contract import DatabaseTarget, QueryError, QueryResult

CONFIGURATION: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    "memory_limit": "1GB",
    "max_temp_directory_size": "0B",
    "threads": "2",
    "lock_configuration": "true",
}
"""Every connection of one process to one file must be opened with the same configuration."""


def connect_file(file: str) -> duckdb.DuckDBPyConnection:
    """Open a file read-only under our configuration. Raises duckdb.Error."""
    return duckdb.connect(file, read_only=True, config=CONFIGURATION)


class DuckDBConnection(ReadOnlyConnection):
    """A read-only connection to one DuckDB file."""

    def __init__(self, target: DatabaseTarget) -> None:
        """Raises QueryError `database_unavailable`."""
        file = Path(Address(target).file)
        try:
            self._connection = connect_file(str(file))
        except duckdb.Error as error:
            raise QueryError("database_unavailable", f"DuckDB: {_message(error)}") from None

    def _execute(self, sql: str, timeout_s: float, row_cap: int, tables: Collection[str]) -> QueryResult:
        expired = threading.Event()

        def interrupt() -> None:
            expired.set()
            self._connection.interrupt()

        timer = threading.Timer(timeout_s, interrupt)
        watch = Stopwatch()
        try:
            statements = self._connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise QueryError("sql_error", "not one query")
            timer.start()
            self._connection.execute("BEGIN TRANSACTION READ ONLY")
            self._connection.execute(statements[0])
            columns = tuple(column[0] for column in self._connection.description or ())
            rows, truncated = fetch(self._connection.fetchmany, row_cap)
            return QueryResult(columns, rows, truncated, watch.seconds())
        except duckdb.Error as error:
            if expired.is_set():
                raise QueryError("sql_timeout", f"not done after {timeout_s:g} s") from None
            raise QueryError("sql_error", _message(error)) from None
        finally:
            timer.cancel()
            self._rollback()

    def close(self) -> None:
        self._connection.close()

    def _rollback(self) -> None:
        try:
            self._connection.execute("ROLLBACK")
        except duckdb.Error:
            return  # no transaction was begun


def _message(error: duckdb.Error) -> str:
    return str(error).split("\n\nLINE")[0].strip()
