"""MySQL and MariaDB, read-only: a user without powers, a read-only transaction, a time limit.

Strings are read with backslash escapes and double quotes as strings, as the gate writes them,
whatever the server's default mode. The client never sends a local file and never two statements.
"""

import json
import re
from collections.abc import Collection
from typing import Any

import pymysql
from pymysql.cursors import SSCursor

from services.text2sql.gate import AdmittedStatement
from services.text2sql.runner.connection import Address, ReadOnlyConnection, Stopwatch, fetch
from services.text2sql.runner.contract import DatabaseTarget, ErrorCode, QueryError, QueryResult

_CONNECT_SECONDS = 10
_TIMEOUT_ERRORS = (3024, 1969, 1317)
_POWERS = re.compile(
    r"GRANT (ALL PRIVILEGES|[^'`]*\b(FILE|SUPER|SYSTEM_USER|SHUTDOWN)\b)[^'`]* ON \*\.\*", re.I
)


class MySQLConnection(ReadOnlyConnection):
    """A read-only session of a user that may do no more than read tables."""

    def __init__(self, target: DatabaseTarget) -> None:
        """Raises QueryError `database_unavailable`, also for a user with the FILE privilege."""
        address = Address(target)
        place: dict[str, Any] = {"host": address.host, "port": address.port or 3306}
        if "unix_socket" in address.options:
            place = {"unix_socket": address.options["unix_socket"]}
        try:
            self._connection = pymysql.connect(
                **place,
                user=address.user,
                password=address.password or "",
                database=address.database,
                charset="utf8mb4",
                connect_timeout=_CONNECT_SECONDS,
                read_timeout=120,
                local_infile=False,
                autocommit=False,
            )
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT VERSION(), @@sql_mode")
                version, mode = cursor.fetchone()
                self._mariadb = "mariadb" in version.lower()
                kept = [
                    m for m in mode.split(",") if m not in ("", "ANSI", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES")
                ]
                cursor.execute("SET SESSION sql_mode = %s", [",".join(kept)])
                cursor.execute("SET SESSION TRANSACTION READ ONLY")
                cursor.execute("SHOW GRANTS")
                grants = [row[0] for row in cursor.fetchall()]
            self._connection.rollback()
        except pymysql.MySQLError as error:
            raise QueryError("database_unavailable", f"MySQL: {_message(error)}") from None
        if any(_POWERS.match(grant) for grant in grants):
            self._connection.close()
            raise QueryError(
                "database_unavailable",
                "MySQL: the user has ALL, FILE or SUPER on *.*; connect as a user with SELECT and no more",
            )

    def _execute(self, sql: str, timeout_s: float, row_cap: int, tables: Collection[str]) -> QueryResult:
        cursor = None
        try:
            self._begin(timeout_s)
            watch = Stopwatch()
            cursor = self._connection.cursor(SSCursor)
            cursor.execute(sql)
            columns = tuple(column[0] for column in cursor.description or ())
            if not columns:
                raise QueryError("sql_error", "not a query")
            rows, truncated = fetch(cursor.fetchmany, row_cap)
            return QueryResult(columns, rows, truncated, watch.seconds())
        except pymysql.MySQLError as error:
            if error.args and error.args[0] in _TIMEOUT_ERRORS:
                raise QueryError("sql_timeout", f"not done after {timeout_s:g} s") from None
            code: ErrorCode = "sql_error" if self._connection.open else "database_unavailable"
            raise QueryError(code, _message(error)) from None
        finally:
            self._end(cursor)

    def plan_cost(self, admitted: AdmittedStatement) -> float | None:
        try:
            self._begin(5.0)
            with self._connection.cursor() as cursor:
                cursor.execute(f"EXPLAIN FORMAT=JSON {admitted.sql}")
                block = json.loads(cursor.fetchone()[0]).get("query_block", {})
            cost = block.get("cost_info", {}).get("query_cost", block.get("cost"))
            return None if cost is None else float(cost)
        except pymysql.MySQLError as error:
            raise QueryError("sql_error", _message(error)) from None
        finally:
            self._end(None)

    def close(self) -> None:
        if self._connection.open:
            self._connection.close()

    def _begin(self, timeout_s: float) -> None:
        limit = (
            f"SET SESSION max_statement_time = {timeout_s:.3f}"
            if self._mariadb
            else f"SET SESSION max_execution_time = {max(1, round(timeout_s * 1_000))}"
        )
        with self._connection.cursor() as cursor:
            cursor.execute(limit)
            cursor.execute("START TRANSACTION READ ONLY")

    def _end(self, cursor: SSCursor | None) -> None:
        """Leave nothing behind: an unread result would block the next statement."""
        try:
            if cursor is not None:
                cursor.close()
            if self._connection.open:
                self._connection.rollback()
        except pymysql.MySQLError:
            self._connection.close()


def _message(error: pymysql.MySQLError) -> str:
    return str(error.args[1] if len(error.args) > 1 else error)
