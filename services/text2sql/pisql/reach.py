"""Which tables a question of a small model may read together: single tables and paths of foreign keys."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from services.text2sql.pisql.cues import Cues, said, table_words, words_of
from services.text2sql.pisql.objects import Column, ForeignKey, SchemaView, Table

_IDENTIFIER = re.compile(r"(^|_)[iI][dD]$|[a-z]I[dD]$")
MOST_REACHES = 4
MARGIN = 0.3


class Field(NamedTuple):
    """A column within reach; `place` is the position of its table."""

    place: int
    table: Table
    column: Column


@dataclass(frozen=True, slots=True)
class Reach:
    """Tables read together and the joins between them."""

    tables: tuple[Table, ...]
    joins: tuple[ForeignKey, ...] = ()

    def fields(self) -> list[Field]:
        """Everything within reach that may be shown."""
        return [
            Field(number, table, column)
            for number, table in enumerate(self.tables)
            for column in table.columns
            if not column.sensitive
        ]

    def is_key(self, field: Field) -> bool:
        """Whether a field identifies a row or refers to one."""
        joined = {name for key in self.joins for name in (*key.columns, *key.referred_columns)}
        name = field.column.name
        return name in field.table.primary_key or name in joined or _IDENTIFIER.search(name) is not None


def reaches(schema: SchemaView) -> list[Reach]:
    """Single tables, then pairs along one foreign key, then paths of two."""
    pairs = []
    for key in schema.foreign_keys:
        left, right = schema.table(key.table), schema.table(key.referred_table)
        if left and right and left.name != right.name and len(key.columns) == 1:
            pairs.append(Reach((left, right), (key,)))
    triples = []
    for number, first in enumerate(pairs):
        for second in pairs[number + 1 :]:
            names = {table.name for table in first.tables}
            new = [table for table in second.tables if table.name not in names]
            if len(new) == 1:
                triples.append(Reach((*first.tables, new[0]), (*first.joins, *second.joins)))
    return [Reach((table,)) for table in schema.tables] + pairs + triples


def best_reaches(schema: SchemaView, cues: Cues, most: int = MOST_REACHES) -> list[tuple[Reach, float]]:
    """(reach, cover) of those that cover most of what the question names with the fewest tables, best first.

    Those that hold every value named word for word go before all others; of the rest only those stay
    whose cover comes close to the best. A column counts once; a table pays for being read.
    """
    every = reaches(schema)
    holding = [reach for reach in every if _holds(reach, cues)] or every
    ranked = sorted(
        ((cover(reach, cues), -len(reach.tables), -number) for number, reach in enumerate(holding)),
        reverse=True,
    )
    best = ranked[0][0]
    return [(holding[-number], found) for found, _, number in ranked[:most] if found >= best - MARGIN]


def _holds(reach: Reach, cues: Cues) -> bool:
    names = {table.name.lower() for table in reach.tables}
    return all(names & holders for score, holders in cues.values if score >= 1.0)


def cover(reach: Reach, cues: Cues) -> float:
    """How many of the question's words speak of something within reach, less what its tables cost.

    A word counts once: whole for a table that is named, by half the share of its name for a column.
    """
    credit: dict[str, float] = {}
    covered = 0.0
    for table in reach.tables:
        weight = cues.weight(table)
        covered += weight if weight < 1.0 else 0.0
        for word in table_words(table) if weight >= 1.0 else ():
            credit[word] = 1.0 / len(table_words(table))
    names = {table.name.lower() for table in reach.tables}
    covered += sum(0.6 * score for score, holders in cues.values if names & holders)
    for _, table, column in reach.fields():
        weight = cues.weight(table, column)
        spoken = words_of(table, column, weight)
        for word in said(spoken, cues.words) if weight >= 0.5 else ():
            credit[word] = max(credit.get(word, 0.0), 0.5 * weight)
    return covered + sum(credit.values()) - 0.4 * (len(reach.tables) - 1)
