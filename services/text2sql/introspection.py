"""Reading a database's structure and contents into the catalogue: DuckDB natively, others by SQLAlchemy.

Runs trusted statements of our own only (never a model's), over a read-only connection. Synchronous:
it belongs in a queued job or a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import Connection, create_engine, inspect, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from services.text2sql.pisql.configuration import ValueSettings
from services.text2sql.pisql.objects import Column, ForeignKey, SchemaView, Table
from services.text2sql.pisql.sql_text import dialect_name
from services.text2sql.pisql.stages.s1_catalogue import NO_SEMANTICS, Query, Semantics, build, profile, quoted
from services.text2sql.pisql.stages.s2_values import DEFAULTS, ValueIndex
from services.text2sql.runner.duckdb import connect_file

_DRIVERS = {
    "sqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
    "duckdb": "duckdb",
}
_READ_ONLY = {
    "postgres": "SET default_transaction_read_only = on",
    "mysql": "SET SESSION TRANSACTION READ ONLY",
}
CONNECT_SECONDS = 10

Structure: TypeAlias = tuple[list[Table], list[ForeignKey]]


@dataclass(frozen=True, slots=True)
class Trusted:
    """A read-only connection for our own statements; `structure` reads tables with columns and keys."""

    query: Query
    structure: Callable[[], Structure]


def dialect_of(url: str) -> str:
    """The dialect behind a SQLAlchemy URL: sqlite, postgres, mysql or duckdb.

    Raises ValueError for a URL of another backend, or none at all.
    """
    backend = make_url(url).get_backend_name()
    if backend not in _DRIVERS:
        raise ValueError(f"{backend} is not supported; use sqlite, postgresql, mysql, mariadb or duckdb")
    return dialect_name(backend)


def _read_only_url(url: str) -> URL:
    made = make_url(url)
    made = made.set(drivername=_DRIVERS[made.get_backend_name()])
    if made.get_backend_name() == "sqlite" and made.database and made.database != ":memory:":
        path = Path(made.database).resolve().as_posix()
        return make_url(f"sqlite:///file:{path}?mode=ro&uri=true")
    return made


@contextmanager
def open_trusted(url: str) -> Iterator[Trusted]:
    """Open a database for reading; closed afterwards."""
    dialect = dialect_of(url)
    if dialect == "duckdb":
        with connect_file(make_url(url).database or "") as native:
            yield Trusted(lambda sql: native.execute(sql).fetchall(), lambda: _duckdb_structure(native))
        return
    arguments = {"connect_timeout": CONNECT_SECONDS} if dialect in _READ_ONLY else {}
    engine = create_engine(_read_only_url(url), poolclass=NullPool, connect_args=arguments)
    try:
        with engine.connect() as connection:
            if dialect in _READ_ONLY:
                connection.execute(text(_READ_ONLY[dialect]))
                # A rolled-back SET would be undone.
                connection.commit()
            yield Trusted(_query(connection), lambda: _declared_structure(connection, dialect))
    finally:
        engine.dispose()


def _query(connection: Connection) -> Query:
    """The trusted query function of a connection."""
    doubled = connection.dialect.paramstyle in ("format", "pyformat")

    def run(sql: str) -> Sequence[Sequence[Any]]:
        statement = sql.replace("%", "%%") if doubled else sql
        return [tuple(row) for row in connection.exec_driver_sql(statement)]

    return run


def _declared_structure(connection: Connection, dialect: str) -> Structure:
    """Tables that may be read, in name order, as they are declared."""
    inspector = inspect(connection)
    tables, keys = [], []
    for name in sorted(inspector.get_table_names()):
        if not _may_read(connection, quoted(name, dialect)):
            continue
        columns = tuple(
            Column(item["name"], str(item["type"]), description=item.get("comment") or "")
            for item in inspector.get_columns(name)
        )
        primary = tuple(inspector.get_pk_constraint(name).get("constrained_columns") or ())
        tables.append(Table(name, columns, primary, description=_comment(inspector, name)))
        keys += [
            ForeignKey(
                name,
                tuple(item["constrained_columns"]),
                item["referred_table"],
                tuple(item["referred_columns"] or item["constrained_columns"]),
            )
            for item in inspector.get_foreign_keys(name)
        ]
    return tables, _between(tables, keys)


def _may_read(connection: Connection, source: str) -> bool:
    """Whether the role may read a table; others are none of the catalogue's business."""
    try:
        connection.exec_driver_sql(f"SELECT 1 FROM {source} LIMIT 0")
    except DBAPIError:
        connection.rollback()
        return False
    return True


def _between(tables: Sequence[Table], keys: Sequence[ForeignKey]) -> list[ForeignKey]:
    """Keys both of whose tables are known."""
    names = {table.name for table in tables}
    return [key for key in keys if key.table in names and key.referred_table in names]


def _duckdb_structure(connection: Any) -> Structure:
    """Tables, columns and keys of the main schema, from DuckDB's own catalogue."""
    own = "WHERE NOT internal AND database_name = current_database() AND schema_name = 'main'"
    described = connection.execute(f"SELECT table_name, comment FROM duckdb_tables() {own} ORDER BY 1")
    comments = dict(described.fetchall())
    columns: dict[str, list[Column]] = {name: [] for name in comments}
    for name, column, kind, comment in connection.execute(
        "SELECT table_name, column_name, data_type, comment "
        f"FROM duckdb_columns() {own} ORDER BY column_index"
    ).fetchall():
        if name in columns:
            columns[name].append(Column(column, kind, description=comment or ""))
    primary: dict[str, tuple[str, ...]] = {}
    keys = []
    for name, kind, names, referred, others in connection.execute(
        "SELECT table_name, constraint_type, constraint_column_names, referenced_table, "
        "referenced_column_names FROM duckdb_constraints() ORDER BY table_name, constraint_index"
    ).fetchall():
        if kind == "PRIMARY KEY":
            primary[name] = tuple(names)
        elif kind == "FOREIGN KEY":
            keys.append(ForeignKey(name, tuple(names), referred, tuple(others)))
    tables = [
        Table(name, tuple(columns[name]), primary.get(name, ()), description=comment or "")
        for name, comment in comments.items()
    ]
    return tables, _between(tables, keys)


def _comment(inspector: Any, table: str) -> str:
    try:
        return inspector.get_table_comment(table).get("text") or ""
    except NotImplementedError:
        return ""


def catalogue(
    database_id: str,
    url: str,
    semantics: Semantics = NO_SEMANTICS,
    *,
    report: Callable[[float, str], None] = lambda _share, _message: None,
) -> SchemaView:
    """Introspect and profile a database. `report` hears (share done, table name)."""
    dialect = dialect_of(url)
    with open_trusted(url) as trusted:
        tables, keys = trusted.structure()
        profiled = []
        for number, table in enumerate(tables):
            report(number / len(tables), table.name)
            prefix = f"{table.name.lower()}."
            hidden = [
                name.lower().removeprefix(prefix)
                for name in semantics.sensitive
                if name.lower().startswith(prefix)
            ]
            profiled.append(profile(table, trusted.query, dialect, sensitive=hidden))
    return build(database_id, dialect, profiled, keys, semantics)


def text_values(
    url: str, schema: SchemaView, settings: ValueSettings = DEFAULTS
) -> Mapping[tuple[str, str], Collection[str]]:
    """Distinct text values of every column that may be sampled, capped per column."""
    values: dict[tuple[str, str], list[str]] = {}
    with open_trusted(url) as trusted:
        for table, column in schema.columns():
            if column.sensitive or not (column.is_text or column.type.upper() in ("", "NULL", "BLOB")):
                continue
            name, source = quoted(column.name, schema.dialect), quoted(table.name, schema.dialect)
            rows = trusted.query(
                f"SELECT DISTINCT {name} FROM {source} WHERE {name} IS NOT NULL LIMIT {settings.column_cap}"
            )
            values[table.name, column.name] = [row[0] for row in rows if isinstance(row[0], str)]
    return values


def value_index(url: str, schema: SchemaView, settings: ValueSettings = DEFAULTS) -> ValueIndex:
    """The MinHash index of a database's text values."""
    return ValueIndex.build(text_values(url, schema, settings), settings)
