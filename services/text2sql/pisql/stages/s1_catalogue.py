"""S1: the catalogue of a database: profiling of an introspected schema, semantics, fingerprint.

Profiling asks the database through a trusted query function; a sensitive column is counted but never
sampled. The result is a full `SchemaView`, which the later stages only narrow.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from services.text2sql.pisql.objects import Cell, Column, ForeignKey, Metric, SchemaView, Table
from services.text2sql.pisql.results import canonical_cell, canonical_rows

Query: TypeAlias = Callable[[str], Sequence[Sequence[Any]]]

TOP_VALUES = 5
SAMPLE_ROWS = 3
LONGEST_SAMPLE = 100


@dataclass(frozen=True, slots=True)
class Semantics:
    """What people say about a database; keys are `table` or `table.column` in any letter case."""

    descriptions: Mapping[str, str] = field(default_factory=dict)
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sensitive: Collection[str] = ()
    metrics: Sequence[Metric] = ()
    joins: Sequence[ForeignKey] = ()
    notes: Sequence[str] = ()


NO_SEMANTICS = Semantics()


def fingerprint(tables: Sequence[Table], foreign_keys: Sequence[ForeignKey]) -> str:
    """A digest of names, types and keys; equal for the same structure whatever the contents."""
    body = [
        sorted(
            [
                table.name,
                [[column.name, column.type.upper()] for column in table.columns],
                list(table.primary_key),
            ]
            for table in tables
        ),
        sorted(
            [key.table, list(key.columns), key.referred_table, list(key.referred_columns)]
            for key in foreign_keys
            if not key.approved
        ),
    ]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()[:16]


def build(
    database_id: str,
    dialect: str,
    tables: Sequence[Table],
    foreign_keys: Sequence[ForeignKey],
    semantics: Semantics = NO_SEMANTICS,
) -> SchemaView:
    """The full view of a database: structure joined with what people say about it."""
    joins = tuple(dataclasses.replace(join, approved=True) for join in semantics.joins)
    return SchemaView(
        database_id=database_id,
        dialect=dialect,
        tables=tuple(describe(table, semantics) for table in tables),
        foreign_keys=(*foreign_keys, *joins),
        metrics=tuple(semantics.metrics),
        notes=tuple(semantics.notes),
        fingerprint=fingerprint(tables, foreign_keys),
    )


def describe(table: Table, semantics: Semantics) -> Table:
    """A table with descriptions, synonyms and sensitivity joined in; sensitive samples removed."""
    descriptions = {key.lower(): text for key, text in semantics.descriptions.items()}
    synonyms = {key.lower(): tuple(words) for key, words in semantics.synonyms.items()}
    sensitive = {key.lower() for key in semantics.sensitive}
    columns = []
    for column in table.columns:
        key = f"{table.name}.{column.name}".lower()
        hidden = column.sensitive or key in sensitive
        described = dataclasses.replace(
            column,
            description=descriptions.get(key, column.description),
            synonyms=synonyms.get(key, column.synonyms),
            sensitive=hidden,
        )
        columns.append(_hidden(described) if hidden else described)
    key = table.name.lower()
    masked = any(column.sensitive for column in columns)
    return dataclasses.replace(
        table,
        columns=tuple(columns),
        description=descriptions.get(key, table.description),
        synonyms=synonyms.get(key, table.synonyms),
        sample_rows=() if masked else table.sample_rows,
    )


def _hidden(column: Column) -> Column:
    return dataclasses.replace(column, samples=(), minimum=None, maximum=None)


def restrict(schema: SchemaView, allowed: Collection[str] | None) -> SchemaView:
    """The view a caller with grants on `allowed` tables may have; None means every table."""
    if allowed is None:
        return schema
    names = {name.lower() for name in allowed}
    return dataclasses.replace(
        schema,
        tables=tuple(table for table in schema.tables if table.name.lower() in names),
        foreign_keys=tuple(
            key
            for key in schema.foreign_keys
            if key.table.lower() in names and key.referred_table.lower() in names
        ),
    )


def quoted(name: str, dialect: str) -> str:
    """An identifier quoted for the dialect."""
    mark = "`" if dialect == "mysql" else '"'
    return mark + name.replace(mark, mark * 2) + mark


def profile(table: Table, query: Query, dialect: str, *, sensitive: Collection[str] = ()) -> Table:
    """The table with row count, null shares, distinct counts, ranges, top values, sample rows.

    `query` runs one trusted statement and returns its rows. Column names in `sensitive` are counted
    but never sampled.
    """
    source = quoted(table.name, dialect)
    hidden = {name.lower() for name in sensitive}
    names = [quoted(column.name, dialect) for column in table.columns]
    counts = ", ".join(f"COUNT({name}), COUNT(DISTINCT {name})" for name in names)
    first = query(f"SELECT COUNT(*){', ' + counts if counts else ''} FROM {source}")[0]
    total = int(first[0])
    columns = []
    for index, column in enumerate(table.columns):
        filled, different = int(first[1 + 2 * index]), int(first[2 + 2 * index])
        counted = dataclasses.replace(
            column,
            null_share=1 - filled / total if total else 0.0,
            distinct_count=different,
            sensitive=column.sensitive or column.name.lower() in hidden,
        )
        columns.append(counted if counted.sensitive else _sampled(counted, names[index], source, query))
    masked = any(column.sensitive for column in columns)
    rows = () if masked else query(f"SELECT {', '.join(names)} FROM {source} LIMIT {SAMPLE_ROWS}")
    return dataclasses.replace(table, columns=tuple(columns), row_count=total, sample_rows=_short_rows(rows))


def _sampled(column: Column, name: str, source: str, query: Query) -> Column:
    top = query(
        f"SELECT {name}, COUNT(*) FROM {source} WHERE {name} IS NOT NULL "
        f"GROUP BY {name} ORDER BY COUNT(*) DESC, {name} LIMIT {TOP_VALUES}"
    )
    least, greatest = query(f"SELECT MIN({name}), MAX({name}) FROM {source}")[0]
    return dataclasses.replace(
        column,
        samples=tuple(_short(canonical_cell(row[0])) for row in top),
        minimum=_short(canonical_cell(least)),
        maximum=_short(canonical_cell(greatest)),
    )


def _short(cell: Cell) -> Cell:
    return cell[:LONGEST_SAMPLE] if isinstance(cell, str) else cell


def _short_rows(rows: Sequence[Sequence[Any]]) -> tuple[tuple[Cell, ...], ...]:
    return tuple(tuple(map(_short, row)) for row in canonical_rows(rows))
