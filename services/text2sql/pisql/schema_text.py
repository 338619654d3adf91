"""A schema view as prompt text, in three sizes: DDL with comments, a compact list, one line a table.

Cell values and descriptions come from the data and may hold anything, so every one is escaped, cut
and quoted here, in one place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from services.text2sql.pisql.objects import Cell, Column, ForeignKey, ResultTable, SchemaView, Table, ValueHit

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")
LONGEST_DESCRIPTION = 200
LONGEST_SAMPLE = 40


def escaped(text: str, longest: int) -> str:
    """Text from the data on one line, without fences or delimiters, cut to `longest` characters."""
    plain = _CONTROL.sub(" ", text).replace("```", "'''").replace("<<", "< <").replace(">>", "> >")
    return plain if len(plain) <= longest else plain[: longest - 1] + "…"


def cell_text(value: Cell, longest: int = LONGEST_SAMPLE) -> str:
    """A cell as a quoted, escaped literal."""
    if isinstance(value, str):
        return json.dumps(escaped(value, longest), ensure_ascii=False)
    return "null" if value is None else repr(value)


def _samples(column: Column, most: int) -> str:
    return ", ".join(cell_text(value) for value in column.samples[:most])


def _column_comment(column: Column, samples: int) -> str:
    parts = []
    if column.description:
        parts.append(escaped(column.description, LONGEST_DESCRIPTION))
    if column.synonyms:
        parts.append("also: " + escaped(", ".join(column.synonyms), 80))
    if column.samples and samples:
        parts.append("e.g. " + _samples(column, samples))
    if column.is_number and column.minimum is not None and column.maximum is not None:
        parts.append(f"{cell_text(column.minimum)}..{cell_text(column.maximum)}")
    if column.null_share > 0:
        parts.append(f"{column.null_share:.0%} null")
    return "; ".join(parts)


def ddl(schema: SchemaView, *, samples: int = 3) -> str:
    """CREATE TABLE statements with trailing comments."""
    return "\n".join(_create(schema, table, samples) for table in schema.tables) + _extras(schema)


def _create(schema: SchemaView, table: Table, samples: int) -> str:
    comment = escaped(table.description, LONGEST_DESCRIPTION)
    head = f'CREATE TABLE "{table.name}" ( -- {table.row_count} rows' + (f"; {comment}" if comment else "")
    lines = [head]
    for column in table.columns:
        comment = _column_comment(column, samples)
        lines.append(f'  "{column.name}" {column.type},' + (f" -- {comment}" if comment else ""))
    if table.primary_key:
        lines.append(f"  PRIMARY KEY ({', '.join(table.primary_key)}),")
    lines.extend(
        f"  FOREIGN KEY ({', '.join(key.columns)}) REFERENCES "
        f'"{key.referred_table}" ({", ".join(key.referred_columns)}),'
        for key in _keys_of(schema, table)
    )
    lines.append(");")
    return "\n".join(lines)


def _keys_of(schema: SchemaView, table: Table) -> Iterable[ForeignKey]:
    return (key for key in schema.foreign_keys if key.table.lower() == table.name.lower())


def compact(schema: SchemaView, *, samples: int = 3) -> str:
    """One line a column: name, type, key marks, meaning, samples (the form of M-Schema)."""
    lines = []
    for table in schema.tables:
        comment = escaped(table.description, LONGEST_DESCRIPTION)
        lines.append(f"# {table.name}" + (f": {comment}" if comment else ""))
        for column in table.columns:
            marks = " PK" if column.name in table.primary_key else ""
            comment = _column_comment(column, samples)
            lines.append(f"  {column.name} {column.type}{marks}" + (f": {comment}" if comment else ""))
    lines.extend(_key_text(key) for key in schema.foreign_keys)
    return "\n".join(lines) + _extras(schema)


def _key_text(key: ForeignKey) -> str:
    pairs = zip(key.columns, key.referred_columns, strict=False)
    return " and ".join(f"{key.table}.{a} = {key.referred_table}.{b}" for a, b in pairs)


def one_line(schema: SchemaView, *, samples: int = 2) -> str:
    """One line a table: for small models with little context."""
    lines = []
    for table in schema.tables:
        columns = []
        for column in table.columns:
            shown = _samples(column, samples) if column.is_text and column.distinct_count <= 20 else ""
            columns.append(column.name + (f" [{shown}]" if shown else ""))
        lines.append(f"{table.name}({', '.join(columns)})")
    lines.extend(_key_text(key) for key in schema.foreign_keys)
    return "\n".join(lines)


def _extras(schema: SchemaView) -> str:
    lines = [
        f"-- measure {escaped(metric.name, 60)}: {escaped(metric.definition, LONGEST_DESCRIPTION)}"
        for metric in schema.metrics
    ]
    lines += [f"-- note: {escaped(note, LONGEST_DESCRIPTION)}" for note in schema.notes]
    return "".join("\n" + line for line in lines)


def values(hits: Iterable[ValueHit]) -> str:
    """Value hits, one line each."""
    return "\n".join(
        f"{hit.table}.{hit.column} = {cell_text(hit.value, 60)} (for {cell_text(hit.keyword, 40)})"
        for hit in hits
    )


def result_head(result: ResultTable | None, rows: int = 5, longest: int = 60) -> str:
    """The first rows of a result, cells cut, for a mismatch prompt."""
    if result is None:
        return "no result"
    lines = [f"{result.row_count} rows, columns: {', '.join(escaped(c, 40) for c in result.columns)}"]
    lines += ["[" + ", ".join(cell_text(cell, longest) for cell in row) + "]" for row in result.rows[:rows]]
    return "\n".join(lines)


def estimate_tokens(text: str, characters_per_token: float) -> int:
    """A rough token count, used where a provider's own count is not at hand."""
    return int(len(text) / characters_per_token) + 1
