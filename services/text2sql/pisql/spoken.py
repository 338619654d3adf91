"""What a question says of the columns within a reach: which are named, which are asked for, what is near.

One place for the measures that conditions and readings share; it decides nothing.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

from services.text2sql.pisql.cues import Cues, column_words, mentions, share_said, table_words, words_of
from services.text2sql.pisql.reach import Field, Reach

FAR = 10_000
#: Columns to show, with a penalty.
Select: TypeAlias = tuple[tuple[Field, ...], float]


class Spoken:
    """A question's words over one reach.

    `named` are the columns it names, `head` those of them named where it says what it asks for, `at` where
    it first speaks of each.
    """

    def __init__(self, reach: Reach, cues: Cues) -> None:
        self.reach = reach
        self.cues = cues
        self.fields = reach.fields()
        self._places = {
            field: mentions(cues, field.column.name, words_of(field.table, field.column, self.weight(field)))
            for field in self.fields
        }
        self.at = {field: min(places, default=FAR) for field, places in self._places.items()}
        self._tables = {t.name: mentions(cues, t.name, table_words(t)) for t in reach.tables}
        # A key is meant only when it is named whole: "stadium" is no stadium_id.
        spoken_of = [f for f in self.fields if self.weight(f) >= (0.99 if reach.is_key(f) else 0.5)]
        self.named = _whole_names_first(spoken_of, self.weight)
        head = cues.words[: cues.head]
        said = {
            f: share_said(words_of(f.table, f.column, self.weight(f)), head, f.column.name) for f in spoken_of
        }
        self.head = self.ordered(
            _whole_names_first([f for f in spoken_of if said[f] >= 0.5], said.__getitem__)
        )

    def weight(self, field: Field) -> float:
        return self.cues.weight(field.table, field.column)

    def ordered(self, fields: Sequence[Field]) -> list[Field]:
        return sorted(fields, key=lambda field: (self.at[field], field.place))

    def lists(self) -> list[Select]:
        """Select lists: what the head names, in its order; else names of what the question speaks of."""
        head = one_per_name(self.head, self.preference)
        found: list[Select] = []
        if head:
            found.append((tuple(head), 0.0))
            if 1 < len(head) <= 3:
                for size in range(len(head) - 1, 0, -1):
                    found += [(chosen, 0.6) for chosen in itertools.combinations(head, size)]
            twins = [field for field in self.head if field not in head]
            return found + [(tuple(swapped(head, twin)), 0.4) for twin in twins[:2]]
        telling = [
            field
            for field in self.fields
            if self.cues.weight(field.table) >= 0.5 and re.search(r"name|title", field.column.name, re.I)
        ]
        found += [((field,), 0.2 + 0.2 * number) for number, field in enumerate(telling[:3])]
        if not telling:
            keys = (f for f in self.fields if f.column.name in f.table.primary_key)
            found += [((f,), 0.3) for f in keys if self.cues.weight(f.table) >= 0.5][:2]
        found += [((field,), 0.5) for field in one_per_name(self.named, self.preference)[:4]]
        if not found:
            found += [((field,), 1.0) for field in self.fields if self.reach.is_key(field)][:2]
        return [*found, (tuple(field for field in self.fields if field.place == 0), 1.2)]

    def preference(self, field: Field) -> tuple[float, float, int]:
        """Of columns alike in name, the one whose table is named beside it: "names of singers"."""
        at = self.at[field]
        gaps = [place - at if place > at else 1.5 * (at - place) for place in self._tables[field.table.name]]
        return (min(gaps, default=float(FAR)), -self.cues.weight(field.table), field.place)

    def gap(self, field: Field, place: int) -> float:
        """Words between a place and the nearest mention of a field, which rather comes before it."""
        gaps = (place - at if at < place else 2.0 * (at - place) for at in self._places[field])
        return min(gaps, default=float(FAR))

    def numeric(self) -> list[Field]:
        """Fields that can be measured: named ones first."""
        able = [f for f in self.fields if f.column.is_number and not self.reach.is_key(f)]
        named = self.ordered([field for field in able if field in self.named])
        return named or [f for f in self.ordered(self.named) if f.column.is_number] or able


def _whole_names_first(fields: list[Field], weight: Callable[[Field], float]) -> list[Field]:
    """Fields named in full; those named in part only where no other takes the words they share."""
    whole = [field for field in fields if weight(field) >= 0.99]
    said = {word for field in whole for word in column_words(field.table, field.column)}
    return whole + [
        field
        for field in fields
        if weight(field) < 0.99 and not said & column_words(field.table, field.column)
    ]


def one_per_name(
    fields: Sequence[Field], preference: Callable[[Field], tuple[float, float, int]]
) -> list[Field]:
    """Of fields alike in name, or spoken of alike, the preferred one, in the order given."""
    kept: list[Field] = []
    for field in fields:
        twin = next((number for number, other in enumerate(kept) if _alike(field, other)), None)
        if twin is None:
            kept.append(field)
        elif preference(field) < preference(kept[twin]):
            kept[twin] = field
    return kept


def _alike(one: Field, other: Field) -> bool:
    if one.column.name.lower() == other.column.name.lower():
        return True
    return column_words(one.table, one.column) == column_words(other.table, other.column)


def swapped(fields: Sequence[Field], twin: Field) -> list[Field]:
    """The list with a field of another table in the place of its namesake."""
    return [twin if _alike(field, twin) else field for field in fields]
