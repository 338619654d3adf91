"""Result rows as CSV, Parquet and Arrow, and files of tables as a SQLite database."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet

from services.text2sql.pisql.objects import ResultTable
from services.text2sql.pisql.results import canonical_cell

SQLITE_HEADER = b"SQLite format 3\x00"
MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
_BATCH = 5_000


class UnreadableFileError(Exception):
    """A file is not what its name says; the message tells why."""


def arrow_table(result: ResultTable) -> pa.Table:
    """The result as an Arrow table; a column of mixed types becomes text, repeated names get numbers."""
    names, seen = [], dict[str, int]()
    for name in result.columns:
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    arrays = []
    for index in range(len(names)):
        cells = [row[index] for row in result.rows]
        try:
            arrays.append(pa.array(cells))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            arrays.append(pa.array([None if cell is None else str(cell) for cell in cells], pa.string()))
    return pa.Table.from_arrays(arrays, names=names)


def encode(result: ResultTable, form: str) -> bytes:
    """The result in one of the forms of `MEDIA_TYPES`."""
    if form == "csv":
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(result.columns)
        writer.writerows(result.rows)
        return text.getvalue().encode()
    table = arrow_table(result)
    sink = io.BytesIO()
    if form == "parquet":
        parquet.write_table(table, sink)
    else:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    return sink.getvalue()


def to_sqlite(files: Mapping[str, Path], target: Path) -> list[str]:
    """Load CSV and Parquet files (name -> path) as tables of a new SQLite file; the table names.

    Raises `UnreadableFileError`.
    """
    names = []
    with sqlite3.connect(target) as connection:
        for name, path in files.items():
            table = _read(name, path)
            names.append(create_table(connection, Path(name).stem, table))
    connection.close()
    return names


def _read(name: str, path: Path) -> pa.Table:
    try:
        if name.lower().endswith(".parquet"):
            return parquet.read_table(path)
        return arrow_csv.read_csv(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise UnreadableFileError(f"{name}: {str(error).splitlines()[0][:200]}") from error


def create_table(
    connection: sqlite3.Connection, name: str, table: pa.Table, constraints: Sequence[str] = ()
) -> str:
    """Write an Arrow table as a table of a SQLite database; dates become ISO text."""
    if not table.num_columns:
        raise UnreadableFileError(f"{name}: no columns")
    columns = [f"{_quoted(field.name)} {_type(field.type)}" for field in table.schema]
    connection.execute(f"CREATE TABLE {_quoted(name)} ({', '.join([*columns, *constraints])})")
    marks = ", ".join("?" * table.num_columns)
    for rows in _batches(table):
        connection.executemany(f"INSERT INTO {_quoted(name)} VALUES ({marks})", rows)
    return name


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _type(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return "INTEGER"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "REAL"
    return "TEXT"


def _batches(table: pa.Table) -> Iterator[Sequence[tuple[Any, ...]]]:
    for batch in table.to_batches(max_chunksize=_BATCH):
        columns = [column.to_pylist() for column in batch.columns]
        yield [tuple(map(canonical_cell, row)) for row in zip(*columns, strict=True)]


def check_sqlite(path: Path) -> None:
    """Make sure a file is a sound SQLite database, and out of WAL mode so it can be opened immutable.

    Raises `UnreadableFileError`.
    """
    with path.open("rb") as file:
        if file.read(16) != SQLITE_HEADER:
            raise UnreadableFileError("the file is not an SQLite 3 database")
    try:
        connection = sqlite3.connect(path)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA journal_mode = DELETE").fetchall()
            verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            tables = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE type = 'table'").fetchone()[
                0
            ]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        raise UnreadableFileError(f"the SQLite file cannot be read: {error}") from error
    if verdict != "ok":
        raise UnreadableFileError(f"the SQLite file is damaged: {verdict[:200]}")
    if not tables:
        raise UnreadableFileError("the SQLite file holds no table")
