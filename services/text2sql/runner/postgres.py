"""PostgreSQL, read-only: a role without powers, a read-only transaction, a server-side cursor.

The statement goes through the extended protocol, which takes exactly one command, as the body of
DECLARE CURSOR, which takes only a query. The transaction is always rolled back.
"""

import json
from collections.abc import Collection
from typing import Any

import psycopg
from psycopg import pq

from services.text2sql.gate import AdmittedStatement
from services.text2sql.runner.connection import Address, ReadOnlyConnection, Stopwatch, fetch
from services.text2sql.runner.contract import DatabaseTarget, ErrorCode, QueryError, QueryResult

_CONNECT_SECONDS = 10
_SETTINGS = {
    "default_transaction_read_only": "on",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "60s",
    "standard_conforming_strings": "on",
    "jit": "off",  # compiling costs more than the queries of a question take
}
_POWERS = """
SELECT rolsuper OR pg_has_role(current_user, 'pg_read_server_files', 'MEMBER')
    OR pg_has_role(current_user, 'pg_write_server_files', 'MEMBER')
    OR pg_has_role(current_user, 'pg_execute_server_program', 'MEMBER')
FROM pg_roles WHERE rolname = current_user
"""


class PostgresConnection(ReadOnlyConnection):
    """A read-only session of a role that may do no more than read tables.

    `?search_path=a,b` in the URL names the schemas of unqualified tables; `public` by default.
    """

    def __init__(self, target: DatabaseTarget) -> None:
        """Raises QueryError `database_unavailable`, also for a role that can read server files."""
        address = Address(target)
        settings = dict(_SETTINGS, search_path=address.options.pop("search_path", "public"))
        extra: dict[str, Any] = {
            key: address.options[key] for key in ("host", "sslmode") if key in address.options
        }
        try:
            self._connection = psycopg.connect(
                **{"host": address.host, **extra},
                port=address.port or 5432,
                dbname=address.database,
                user=address.user,
                password=address.password,
                connect_timeout=_CONNECT_SECONDS,
                options=" ".join(f"-c {name}={value}" for name, value in settings.items()),
                prepare_threshold=None,
            )
            self._connection.read_only = True
            powerful = self._connection.execute(_POWERS).fetchone()
            self._connection.rollback()
        except psycopg.Error as error:
            raise QueryError("database_unavailable", f"PostgreSQL: {_message(error)}") from None
        if powerful is None or powerful[0]:
            self._connection.close()
            raise QueryError(
                "database_unavailable",
                "PostgreSQL: the role is a superuser or can reach the server's files; "
                "connect as a role with SELECT on the tables and no more",
            )

    def _execute(self, sql: str, timeout_s: float, row_cap: int, tables: Collection[str]) -> QueryResult:
        try:
            self._begin(timeout_s)
            watch = Stopwatch()
            self._single(f"DECLARE answer NO SCROLL CURSOR FOR {sql}")
            with self._connection.cursor() as cursor:
                # all rows in one FETCH: the statement timeout counts per command
                cursor.execute(f"FETCH FORWARD {row_cap + 1} FROM answer")
                columns = tuple(column.name for column in cursor.description or ())
                rows, truncated = fetch(cursor.fetchmany, row_cap)
            return QueryResult(columns, rows, truncated, watch.seconds())
        except psycopg.errors.QueryCanceled:
            raise QueryError("sql_timeout", f"not done after {timeout_s:g} s") from None
        except psycopg.OperationalError as error:
            code: ErrorCode = "database_unavailable" if self._connection.closed else "sql_error"
            raise QueryError(code, _message(error)) from None
        except (psycopg.Error, ValueError, OverflowError) as error:
            raise QueryError("sql_error", _message(error)) from None
        finally:
            self._end()

    def plan_cost(self, admitted: AdmittedStatement) -> float | None:
        try:
            self._begin(5.0)
            result = self._single(f"EXPLAIN (FORMAT JSON) {admitted.sql}")
            text = result.get_value(0, 0)
            return None if text is None else float(json.loads(text)[0]["Plan"]["Total Cost"])
        except psycopg.Error as error:
            raise QueryError("sql_error", _message(error)) from None
        finally:
            self._end()

    def close(self) -> None:
        self._connection.close()

    def _begin(self, timeout_s: float) -> None:
        milliseconds = max(1, round(timeout_s * 1_000))
        self._connection.execute(f"SET LOCAL statement_timeout = {milliseconds}")

    def _end(self) -> None:
        if not self._connection.closed:
            self._connection.rollback()

    def _single(self, command: str) -> pq.abc.PGresult:
        """One command by the extended protocol, which refuses a second one in the same text."""
        result = self._connection.pgconn.exec_params(command.encode(), [])
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise psycopg.errors.error_from_result(result)
        return result


def _message(error: BaseException) -> str:
    """The first lines of the engine's message, without the text of the statement."""
    primary = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    hint = error.diag.message_hint if isinstance(error, psycopg.Error) else None
    return f"{primary} ({hint})" if primary and hint else primary or str(error).split("\n")[0]
