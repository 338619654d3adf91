"""What a question's own words say about its SQL, for models too small to be trusted with it.

Knows no model: cue words, the schema's names, value hits and numbers narrow a grammar to what the
question can mean. A small model then chooses among few readings instead of writing freely. Everything
here errs on the side of leaving more open: where no cue speaks, nothing is ruled out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.text2sql.pisql.objects import Column, ForeignKey, SchemaView, Table, ValueHit
from services.text2sql.pisql.words import STOP_WORDS, name_words, stem, stems

_COUNT = re.compile(r"\bhow many\b|\bnumber of\b|\bcount\b|\bhow much\b")
_AGGREGATES = {
    "avg": re.compile(r"\b(average|mean)\b"),
    "sum": re.compile(r"\b(total|sum|overall)\b"),
    "max": re.compile(r"\b(maximum|max|highest|largest|greatest|biggest|oldest|latest|longest|most)\b"),
    "min": re.compile(r"\b(minimum|min|lowest|smallest|least|youngest|earliest|shortest|fewest)\b"),
}
_DOWN = re.compile(
    r"\b(most|highest|largest|greatest|biggest|oldest|latest|longest|maximum|top|descending|decreasing)\b"
)
_UP = re.compile(r"\b(least|lowest|smallest|fewest|youngest|earliest|shortest|minimum|ascending)\b")
_SORT = re.compile(r"\b(sort|sorted|order|ordered|ascending|descending|alphabetic\w*|from .* to)\b")
_GROUP = re.compile(r"\b(each|every|per|for all)\b|\bnumber of .* (in|of|for|by) (each|every)\b")
_DISTINCT = re.compile(r"\b(different|distinct|unique)\b")
_NEGATION = re.compile(r"\b(not|never|without|no|other than|except|excluding|don't|doesn't)\b")
_MORE = re.compile(
    r"\b(more than|greater than|older than|over|above|higher than|after|larger than|longer than|exceed\w*)\b"
)
_LESS = re.compile(r"\b(less than|fewer than|younger than|under|below|lower than|before|smaller than)\b")
_AT_LEAST = re.compile(r"\b(at least|or more|no less than)\b")
_AT_MOST = re.compile(r"\b(at most|or less|no more than|or fewer)\b")

MARGIN = 0.25


@dataclass(frozen=True, slots=True)
class Cues:
    """The readings a question leaves open.

    `operators` are SQL comparisons its words allow with a number; `weights` say how strongly a table
    or `table.column` (lowered) is named by the question; of every set in `required` one table must be
    read, for each holds a value that is named word for word.
    """

    count: bool
    aggregates: tuple[str, ...]
    order: bool
    descending: bool
    ascending: bool
    superlative: bool
    group: bool
    distinct: bool
    negation: bool
    operators: tuple[str, ...]
    weights: dict[str, float]
    required: tuple[frozenset[str], ...] = ()

    def weight(self, table: Table, column: Column | None = None) -> float:
        """How strongly a table, or one of its columns, is named."""
        key = table.name if column is None else f"{table.name}.{column.name}"
        return self.weights.get(key.lower(), 0.0)

    def named(self, table: Table) -> list[Column]:
        """Columns of a table that the question names."""
        return [column for column in table.columns if self.weight(table, column) >= 0.5]


def read_cues(question: str, schema: SchemaView, hits: Sequence[ValueHit]) -> Cues:
    """The cues of a question."""
    text = question.lower()
    aggregates = tuple(name for name, pattern in _AGGREGATES.items() if pattern.search(text))
    down, up = bool(_DOWN.search(text)), bool(_UP.search(text))
    sort = bool(_SORT.search(text))
    return Cues(
        count=bool(_COUNT.search(text)),
        aggregates=aggregates,
        order=sort or down or up,
        descending=down,
        ascending=up,
        superlative=(down or up) and not sort,
        # "the name of each teacher" lists teachers; only a figure per something groups them.
        group=bool(_GROUP.search(text)) and (bool(_COUNT.search(text)) or bool(aggregates)),
        distinct=bool(_DISTINCT.search(text)),
        negation=bool(_NEGATION.search(text)),
        operators=_operators(text),
        weights=_weights(question, schema, hits),
        required=_required(hits),
    )


def _required(hits: Sequence[ValueHit]) -> tuple[frozenset[str], ...]:
    holders: dict[str, set[str]] = {}
    for hit in hits:
        if hit.score >= 1.0:
            holders.setdefault(hit.value.lower(), set()).add(hit.table.lower())
    return tuple(map(frozenset, holders.values()))


def _operators(text: str) -> tuple[str, ...]:
    found = []
    if _AT_LEAST.search(text):
        found.append(">=")
    if _AT_MOST.search(text):
        found.append("<=")
    if _MORE.search(text) and not _AT_MOST.search(text):
        found.append(">")
    if _LESS.search(text) and not _AT_LEAST.search(text):
        found.append("<")
    return tuple(found) or ("=",)


def _weights(question: str, schema: SchemaView, hits: Sequence[ValueHit]) -> dict[str, float]:
    asked = set(stems(question))
    squashed = "".join(name_words(question))
    weights: dict[str, float] = {}
    for table in schema.tables:
        own = {stem(word) for text in (table.name, *table.synonyms) for word in name_words(text)}
        own = {word for word in own if word not in STOP_WORDS} or own
        share = _share(own, asked, table.name, squashed)
        # A table named in part (`singer_in_concert` for "singers") must not outdo the one named whole.
        weights[table.name.lower()] = share if share > 0.99 else 0.2 * share
        for column in table.columns:
            texts = (column.name, *column.synonyms)
            words = {stem(word) for text in texts for word in name_words(text)}
            # `singer_id` is no more about singers than its table is.
            distinctive = (words - own) or words
            weights[f"{table.name}.{column.name}".lower()] = _share(distinctive, asked, column.name, squashed)
    for hit in hits:
        key = f"{hit.table}.{hit.column}".lower()
        weights[hit.table.lower()] = weights.get(hit.table.lower(), 0.0) + 0.6 * hit.score
        weights.setdefault(key, 0.0)
    return weights


def _share(words: set[str], asked: set[str], name: str, squashed: str) -> float:
    whole = "".join(name_words(name))
    if len(whole) >= 5 and whole in squashed:
        return 1.0
    return len(words & asked) / len(words) if words else 0.0


def mentioned_at(question: str, column: Column) -> int:
    """Where the question speaks of a column: the position of the last of its words, or far behind."""
    words = {stem(word) for word in name_words(column.name)}
    positions = [number for number, word in enumerate(stems(question)) if word in words]
    return min(positions, default=10_000)


@dataclass(frozen=True, slots=True)
class Reach:
    """Tables read together and the joins between them."""

    tables: tuple[Table, ...]
    joins: tuple[ForeignKey, ...] = ()

    def columns(self) -> list[tuple[int, Table, Column]]:
        """(position of the table, table, column) of everything within reach."""
        return [
            (number, table, column) for number, table in enumerate(self.tables) for column in table.columns
        ]


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


def best_reaches(schema: SchemaView, cues: Cues, most: int) -> list[Reach]:
    """The reaches that cover most of what the question names with the fewest tables, best first.

    Those that hold every value named word for word go before all others; of the rest only those stay
    whose cover comes close to the best. A column counts once; a table pays a little for being read.
    """
    every = reaches(schema)
    holding = [reach for reach in every if _holds(reach, cues)]
    ranked = sorted(
        ((_cover(reach, cues), -len(reach.tables), -number) for number, reach in enumerate(holding or every)),
        reverse=True,
    )
    best = ranked[0][0]
    kept = [number for cover, _, number in ranked[:most] if cover >= best - MARGIN]
    return [(holding or every)[-number] for number in kept]


def _holds(reach: Reach, cues: Cues) -> bool:
    names = {table.name.lower() for table in reach.tables}
    return all(names & holders for holders in cues.required)


def _cover(reach: Reach, cues: Cues) -> float:
    covered = sum(cues.weight(table) for table in reach.tables)
    named: dict[str, float] = {}
    for _, table, column in reach.columns():
        key = column.name.lower()
        named[key] = max(named.get(key, 0.0), cues.weight(table, column))
    covered += 0.5 * sum(weight for weight in named.values() if weight >= 0.5)
    return covered - 0.35 * (len(reach.tables) - 1)
