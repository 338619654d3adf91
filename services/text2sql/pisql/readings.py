"""What a question may mean: a short list of readings, best first, for models too small to write freely.

A reading is a plan of one SELECT: tables, columns shown, figures, conditions, grouping, order, cut. It is
written out as SQL and as a program by `rendering`; a grammar lets the model choose among them. What no
reading says (most subqueries, set operations, expressions) such a model never answers.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from services.text2sql.pisql.conditions import Condition, Conditions
from services.text2sql.pisql.cues import Cues, Number, column_words, meant, read_cues
from services.text2sql.pisql.objects import ForeignKey, SchemaView, Table, ValueHit
from services.text2sql.pisql.reach import Field, Reach, best_reaches
from services.text2sql.pisql.spoken import FAR, Spoken, one_per_name
from services.text2sql.pisql.words import name_words, stem

MOST_READINGS = 32
#: How far behind the best a reading may lie: little where words decide, more where the model is to choose.
STEADY, FREE = 0.2, 1.0


@dataclass(frozen=True, slots=True)
class Figure:
    """An aggregate of a field; without a field it counts rows."""

    name: str
    field: Field | None = None
    distinct: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """One plan. Rows are ordered by `order`, groups by `ranked`.

    `absent` asks for rows of the first table that no row of the key's table refers to, of those that meet
    `absent_conditions`. `both` asks for what is shown of rows under each of two conditions.
    """

    reach: Reach
    shown: tuple[Field, ...] = ()
    figures: tuple[Figure, ...] = ()
    conditions: tuple[Condition, ...] = ()
    either: bool = False
    group: tuple[Field, ...] = ()
    having: tuple[str, str] | None = None
    order: Field | None = None
    ranked: Figure | None = None
    descending: bool = False
    limit: str = ""
    distinct: bool = False
    absent: ForeignKey | None = None
    absent_conditions: tuple[Condition, ...] = ()
    both: bool = False
    score: float = 0.0


def readings(schema: SchemaView, hits: Sequence[ValueHit], question: str) -> tuple[Reading, ...]:
    """At most `MOST_READINGS` different readings of a question with their scores, best first; never none."""
    hits = meant(question, schema, hits)
    cues = read_cues(question, schema, hits)
    found: dict[Reading, float] = {}
    for reach, cover in _reaches(schema, cues):
        for reading in _Reader(schema, reach, cues, hits).all():
            if not reading.shown and not reading.figures:
                continue
            bare = replace(reading, score=0.0)
            found[bare] = max(found.get(bare, -FAR), reading.score + cover)
    if not found:
        return (Reading(best_reaches(schema, cues)[0][0], figures=(Figure("count"),)),)
    ranked = sorted(found.items(), key=lambda item: -item[1])[:MOST_READINGS]
    return within([replace(reading, score=score) for reading, score in ranked], FREE)


def within(found: Sequence[Reading], spread: float) -> tuple[Reading, ...]:
    """Of ranked readings those that lie at most `spread` behind the best."""
    return tuple(reading for reading in found if reading.score >= found[0].score - spread)


def _reaches(schema: SchemaView, cues: Cues) -> list[tuple[Reach, float]]:
    """The best reaches; where the question asks for what is absent, each table it may be absent from."""
    found = best_reaches(schema, cues)
    if cues.absence:
        known = [reach for reach, _ in found]
        named = {table.name.lower() for table in schema.tables if cues.weight(table) >= 0.5}
        named |= {key.referred_table.lower() for key in schema.foreign_keys if key.table.lower() in named}
        alone = [Reach((table,)) for table in schema.tables if table.name.lower() in named]
        found += [(reach, found[0][1] - 0.4) for reach in alone if reach not in known]
    return found


class _Reader:
    """Readings over one reach."""

    def __init__(self, schema: SchemaView, reach: Reach, cues: Cues, hits: Sequence[ValueHit]) -> None:
        self._schema = schema
        self._spoken = Spoken(reach, cues)
        self._reach = reach
        self._cues = cues
        self._hits = hits

    def all(self) -> Iterator[Reading]:
        """Every reading the cues leave open."""
        cues = self._cues
        base = Reading(self._reach)
        for asked in Conditions(self._schema, self._spoken, self._hits).all():
            start = replace(base, conditions=asked.conditions, either=asked.either, score=-asked.penalty)
            rest = asked.numbers
            counted = [number for number in rest if not number.cut]
            cut = next((number.text for number in rest if number.cut), "")
            if cues.absence and len(self._reach.tables) == 1:
                yield from self._absent(start)
            # "which 5 airports have the most" cuts; "with at least 5 flights" counts.
            cuts = cues.superlative and bool(counted) and counted[0].operator == "="
            if counted and not cues.absence and not cuts:
                yield from self._having(start, counted[0])
            elif cues.extreme and {"avg", "sum"} & set(cues.aggregates):
                yield from self._ranked(start, cut or (counted[0].text if cuts else "1"))
            elif cues.superlative or cues.common:
                yield from self._superlative(start, cut or (rest[0].text if rest else "1"))
            elif cues.group:
                yield from self._grouped(start)
            yield from self._plain(start, cut)
            if cues.both and len(asked.conditions) == 2:
                yield from (
                    replace(start, shown=shown, both=True, score=start.score + 1.5 - cost)
                    for shown, cost in self._spoken.lists()
                )

    def _figures(self) -> list[tuple[tuple[Figure, ...], float]]:
        """Aggregates the words allow, in the order they are said, over measured fields."""
        names = self._cues.aggregates
        fields = one_per_name(self._spoken.numeric(), self._spoken.preference)[:3]
        found = [(tuple(Figure(name, field) for name in names), 0.3 * n) for n, field in enumerate(fields)]
        if len(names) == len(fields) == 2:
            found.append((tuple(map(Figure, names, fields)), 0.1))
        if len(fields) > 1 and len(names) == 1:
            found.append((tuple(Figure(names[0], field) for field in fields), 0.4))
        return [item for item in found if item[0]]

    def _counts(self) -> list[tuple[tuple[Figure, ...], float]]:
        """Counting rows, or the different values of a field that the head names."""
        if not self._cues.distinct:
            return [((Figure("count"),), 0.0)]
        fields = one_per_name(self._spoken.head or self._spoken.named, self._spoken.preference)[:2]
        return [
            *(((Figure("count", field, True),), 0.2 * number) for number, field in enumerate(fields)),
            ((Figure("count"),), 0.5),
        ]

    def _plain(self, start: Reading, cut: str) -> Iterator[Reading]:
        """No group: a count, aggregates, or rows, perhaps sorted."""
        cues = self._cues
        if cues.count and not cues.group:
            # "number of staff" may be a column.
            whole = (field for field in self._spoken.named if self._spoken.weight(field) >= 0.99)
            stored = any(len(words) > 1 and "number" in words for words in map(_words, whole))
            for figures, cost in self._counts():
                yield replace(start, figures=figures, score=start.score + (-0.2 if stored else 1.0) - cost)
        if cues.aggregates and not cues.sort:
            for figures, cost in self._figures():
                bonus = 0.2 if cues.superlative else 1.0
                yield replace(start, figures=figures, score=start.score + bonus - cost)
        sorts: list[tuple[Field | None, float]] = [(None, 0.0)]
        if cues.sort:
            sorts = [(field, 0.3 * n) for n, field in enumerate(self._sort_fields())]
        for shown, cost in self._spoken.lists():
            for order, more in sorts:
                yield replace(
                    start,
                    shown=shown,
                    order=order,
                    descending=cues.descending and order is not None,
                    limit=cut if order is not None else "",
                    distinct=cues.distinct,
                    score=start.score - cost - more,
                )

    def _sort_fields(self) -> list[Field]:
        """What rows may be sorted by: the last named first."""
        named = sorted(self._spoken.named, key=lambda field: -self._spoken.at[field])
        return (
            one_per_name(named, self._spoken.preference)[:3]
            or self._spoken.head[:1]
            or self._spoken.fields[:1]
        )

    def _superlative(self, start: Reading, limit: str) -> Iterator[Reading]:
        """The extreme of a field, or the largest group."""
        cues = self._cues
        by_count = cues.count or cues.common or self._counts_tables()
        fields = [field for field in self._spoken.numeric() if field in self._spoken.named]
        if not fields and not by_count:
            fields = self._spoken.numeric()[:2]
        for shown, cost in self._spoken.lists():
            score = start.score + 1.0 - cost
            for number, field in enumerate(one_per_name(fields, self._spoken.preference)[:3]):
                listed = tuple(item for item in shown if item != field) or shown
                yield replace(
                    start,
                    shown=listed,
                    order=field,
                    descending=self._downwards(field),
                    limit=limit,
                    score=score - 0.3 * number - (0.8 if by_count else 0.0),
                )
            if by_count:
                for key, more in self._keys(shown):
                    ordered = replace(start, shown=shown, group=key, ranked=Figure("count"), limit=limit)
                    ordered = replace(ordered, descending=cues.descending or cues.common)
                    yield replace(ordered, score=score - more)
                    yield replace(ordered, figures=(Figure("count"),), score=score - more - 0.3)

    def _ranked(self, start: Reading, limit: str) -> Iterator[Reading]:
        """The group with the extreme average or sum: "the carrier with the longest average delay"."""
        for figures, extra in self._figures():
            measured = {figure.field for figure in figures}
            for shown, cost in self._group_lists(measured):
                for key, more in self._keys(shown):
                    reading = replace(start, shown=shown, group=key, ranked=figures[0], limit=limit)
                    reading = replace(reading, descending=self._cues.descending)
                    score = start.score + 1.5 - cost - more - extra
                    yield replace(reading, score=score)
                    yield replace(reading, figures=figures, score=score - 0.4)

    def _downwards(self, field: Field) -> bool:
        """Whether the extreme is the greatest; the oldest has the earliest date."""
        dated = re.search(r"birth|date|founded", field.column.name, re.I) is not None
        aged = {"oldest", "youngest", "old", "young"} & set(self._cues.words)
        return self._cues.descending != (dated and bool(aged))

    def _counts_tables(self) -> bool:
        """Whether "the most" goes with a table: "the most concerts"."""
        words = self._cues.words
        names = {stem(word) for table in self._schema.tables for word in name_words(table.name)}
        return any(
            word in ("most", "least", "fewest") and next_word in names
            for word, next_word in itertools.pairwise(words)
        )

    def _keys(self, shown: tuple[Field, ...]) -> list[tuple[tuple[Field, ...], float]]:
        """(group key, penalty): the key of the table shown, where one row stands for many; else all shown."""
        found = [(shown, 0.3 if len(self._reach.tables) > 1 else 0.0)]
        for key in self._reach.joins:
            owners = {field.table.name.lower() for field in shown}
            if owners == {key.referred_table.lower()}:
                found += [
                    ((field,), 0.0)
                    for field in self._spoken.fields
                    if field.table.name.lower() in owners and field.column.name == key.referred_columns[0]
                ]
        return sorted(dict(reversed(found)).items(), key=lambda item: item[1])[:2]

    def _grouped(self, start: Reading) -> Iterator[Reading]:
        """A figure per value of a field or per row of a table."""
        measures = [f for f in self._figures() if self._cues.aggregates]
        figures = measures if self._cues.aggregates and not self._cues.count else []
        if self._cues.count or not figures:
            figures = [*self._counts(), *((item, cost + 0.5) for item, cost in measures)]
        measured = {figure.field for options, _ in figures for figure in options}
        for shown, cost in self._group_lists(measured):
            for key, more in self._keys(shown):
                for chosen, extra in figures:
                    reading = replace(start, shown=shown, figures=chosen, group=key)
                    if self._cues.sort or self._cues.superlative:
                        reading = replace(reading, ranked=chosen[0], descending=self._cues.descending)
                    yield replace(reading, score=start.score + 1.2 - cost - more - extra)

    def _group_lists(self, measured: set[Field | None]) -> list[tuple[tuple[Field, ...], float]]:
        """What is shown of a group: fields that are not measured."""
        named = [f for f in self._spoken.ordered(self._spoken.named) if f not in measured]
        named = [f for f in named if not (f.column.is_number and self._reach.is_key(f))] or named
        named = one_per_name(named, self._spoken.preference)
        found: list[tuple[tuple[Field, ...], float]] = [
            ((field,), 0.2 * n) for n, field in enumerate(named[:3])
        ]
        if 1 < len(named) <= 3:
            found.insert(0, (tuple(named), 0.1))
        if not found:
            found = [(shown, cost) for shown, cost in self._spoken.lists() if not measured & set(shown)]
        return found[:5]

    def _having(self, start: Reading, number: Number) -> Iterator[Reading]:
        """Groups of a certain size."""
        for shown, cost in self._spoken.lists():
            for key, more in self._keys(shown):
                reading = replace(start, shown=shown, group=key, having=(number.operator, number.text))
                yield replace(reading, score=start.score + 1.5 - cost - more)

    def _absent(self, start: Reading) -> Iterator[Reading]:
        """Rows of a table that no row of another refers to."""
        table = self._reach.tables[0]
        for key in self._schema.foreign_keys:
            child = self._schema.table(key.table)
            if key.referred_table.lower() != table.name.lower() or child is None or len(key.columns) != 1:
                continue
            bonus = 1.5 + self._cues.weight(child)
            absent = replace(start, absent=key)
            inner = Conditions(self._schema, Spoken(Reach((child,)), self._cues), self._hits)
            meeting = min(inner.all(), key=lambda asked: asked.penalty)
            if meeting.conditions:
                absent = replace(absent, conditions=(), either=False, absent_conditions=meeting.conditions)
                bonus += 0.5 - meeting.penalty
            if self._cues.count:
                yield replace(absent, figures=(Figure("count"),), score=start.score + bonus)
            elif self._cues.aggregates:
                for figures, cost in self._figures():
                    yield replace(absent, figures=figures, score=start.score + bonus - cost)
            for shown, cost in self._spoken.lists():
                yield replace(absent, shown=shown, score=start.score + bonus - cost - 0.3)


def tables_of(found: Sequence[Reading], schema: SchemaView) -> list[Table]:
    """Tables that readings touch."""
    names = {table.name for reading in found for table in reading.reach.tables}
    names |= {reading.absent.table for reading in found if reading.absent is not None}
    return [table for table in schema.tables if table.name in names]


def _words(field: Field) -> frozenset[str]:
    return column_words(field.table, field.column)
