"""The door of the SQL runner: connect, run, and load tables for a snapshot."""

from collections.abc import Sequence
from typing import Any

from sqlglot import exp

from services.text2sql.gate import AdmittedStatement, SqlRejected, admit
from services.text2sql.runner.connection import ReadOnlyConnection
from services.text2sql.runner.contract import DatabaseTarget, LoadedTable, QueryError, QueryResult

_COMPARISONS: dict[str, type[exp.Binary]] = {
    "=": exp.EQ,
    "==": exp.EQ,
    "!=": exp.NEQ,
    "<>": exp.NEQ,
    "<": exp.LT,
    "<=": exp.LTE,
    ">": exp.GT,
    ">=": exp.GTE,
    "like": exp.Like,
}


def connect(database: DatabaseTarget) -> ReadOnlyConnection:
    """Open a read-only connection; raises QueryError `database_unavailable`.

    The drivers are imported here, so that a service pays only for the engines it meets.
    """
    if database.dialect == "sqlite":
        from services.text2sql.runner.sqlite import SQLiteConnection

        return SQLiteConnection(database)
    if database.dialect == "postgres":
        from services.text2sql.runner.postgres import PostgresConnection

        return PostgresConnection(database)
    if database.dialect == "mysql":
        from services.text2sql.runner.mysql import MySQLConnection

        return MySQLConnection(database)
    if database.dialect == "duckdb":
        from services.text2sql.runner.duckdb import DuckDBConnection

        return DuckDBConnection(database)
    raise QueryError("database_unavailable", f"no runner for {database.dialect}")


def run(
    admitted: AdmittedStatement,
    database: DatabaseTarget,
    timeout_s: float = 10.0,
    row_cap: int | None = None,
) -> QueryResult:
    """Connect, run one admitted statement, roll back, close. Raises QueryError."""
    if admitted.dialect != database.dialect:
        raise ValueError(f"a statement for {admitted.dialect} cannot run on {database.dialect}")
    with connect(database) as connection:
        return connection.run(admitted, timeout_s, row_cap)


def load_table(
    database: DatabaseTarget | ReadOnlyConnection,
    name: str,
    columns: Sequence[str] | None = None,
    where: Sequence[tuple[str, str, Any]] | None = None,
    *,
    dialect: str | None = None,
    max_rows: int = 200_000,
    max_bytes: int = 128 << 20,
    timeout_s: float = 30.0,
) -> LoadedTable:
    """One table for a snapshot, narrowed by columns and conditions.

    `database` may be an open connection, with `dialect` then given. A table that is larger than
    the caps comes back `oversized` and without rows. Raises QueryError and, for a condition that
    makes no sense, ValueError.
    """
    if isinstance(database, ReadOnlyConnection):
        if dialect is None:
            raise ValueError("an open connection needs its dialect named")
        return _load(database, dialect, name, columns, where, max_rows, max_bytes, timeout_s)
    with connect(database) as connection:
        return _load(connection, database.dialect, name, columns, where, max_rows, max_bytes, timeout_s)


def _load(
    connection: ReadOnlyConnection,
    dialect: str,
    name: str,
    columns: Sequence[str] | None,
    where: Sequence[tuple[str, str, Any]] | None,
    max_rows: int,
    max_bytes: int,
    timeout_s: float,
) -> LoadedTable:
    schema, _, table = name.rpartition(".")
    chosen: list[exp.Expr] = [exp.column(column, quoted=True) for column in columns or ()]
    query = exp.select(*(chosen or [exp.Star()])).from_(
        exp.table_(
            exp.to_identifier(table, quoted=True),
            db=exp.to_identifier(schema, quoted=True) if schema else None,
        )
    )
    for condition in where or ():
        query = query.where(_condition(*condition))
    try:
        admitted = admit(query.sql(dialect=dialect), dialect, [name], max_rows)
    except SqlRejected as error:
        raise ValueError(f"table {name} cannot be loaded: {error.message}") from error
    try:
        result = connection.run(admitted, timeout_s, max_rows)
    except QueryError as error:
        if error.code != "result_too_large":
            raise
        return LoadedTable(tuple(columns or ()), [], oversized=True)
    size = sum(len(cell) if isinstance(cell, str | bytes) else 16 for row in result.rows for cell in row)
    if result.truncated or size > max_bytes:
        return LoadedTable(result.columns, [], oversized=True)
    return LoadedTable(result.columns, result.rows)


def _condition(column: str, operator: str, literal: Any) -> exp.Expr:
    """(column, operator, literal) as SQL; the operators are those of the sandbox's `db.table`."""
    left = exp.column(column, quoted=True)
    spelled = " ".join(operator.lower().replace("_", " ").split())
    if spelled in ("is null", "is not null"):
        null = exp.Is(this=left, expression=exp.Null())
        return null if spelled == "is null" else exp.Not(this=null)
    negated = spelled.startswith("not ")
    spelled = spelled.removeprefix("not ")
    if spelled == "in":
        test: exp.Expr = exp.In(this=left, expressions=[exp.convert(value) for value in literal])
    elif spelled in _COMPARISONS:
        test = _COMPARISONS[spelled](this=left, expression=exp.convert(literal))
    else:
        raise ValueError(f"unknown operator {operator!r}")
    return exp.Not(this=test) if negated else test
