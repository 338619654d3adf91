"""What a question asks of rows: values, patterns, numbers and averages, each tied to a column.

Every mention of the question is used once; where several columns may be meant, every choice is given.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from services.text2sql.pisql.cues import Number, column_words, table_words
from services.text2sql.pisql.objects import Column, SchemaView, ValueHit
from services.text2sql.pisql.reach import Field
from services.text2sql.pisql.spoken import Spoken, one_per_name

MOST_CONDITIONS = 4
MOST_CHOICES = 12


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of a field: with a literal, or (`average`) with the average of its column."""

    field: Field
    operator: str
    value: str = ""
    is_text: bool = True
    average: bool = False


#: What one mention may mean, with a penalty each; None leaves it unused.
Options: TypeAlias = list[tuple[Condition | None, float]]


@dataclass(frozen=True, slots=True)
class Asked:
    """Conditions on rows, whether any of them is enough, a penalty, and the numbers they left over."""

    conditions: tuple[Condition, ...]
    either: bool
    penalty: float
    numbers: tuple[Number, ...]


class Conditions:
    """The conditions of a question over one reach."""

    def __init__(self, schema: SchemaView, spoken: Spoken, hits: Sequence[ValueHit]) -> None:
        self._schema = schema
        self._spoken = spoken
        self._cues = spoken.cues
        self._hits = hits

    def all(self) -> Iterator[Asked]:
        """Every choice of conditions; of many the first."""
        found = [*self._values(), *self._patterns(), *self._averages()]
        cues = self._cues
        counted = [number for number in cues.numbers if number.cut or self._counts_rows(number)]
        compared = [number for number in cues.numbers if number not in counted]
        for number in compared:
            options = self._compared(number)
            if options:
                found.append(options)
            else:
                counted.append(number)
        several = len(found) > 1
        for chosen in itertools.islice(itertools.product(*found), MOST_CHOICES):
            conditions = tuple(condition for condition, _ in chosen if condition is not None)
            penalty = sum(cost for _, cost in chosen)
            yield Asked(conditions, several and cues.either, penalty, tuple(counted))

    def _values(self) -> list[Options]:
        """For every phrase that names a value, the fields that hold it."""
        phrases: dict[str, Options] = {}
        for hit in self._hits:
            exact = hit.score >= 1.0
            if self._cues.patterns and not exact:
                continue
            name = hit.value.lower() if exact else hit.keyword.lower()
            place = (hit.table.lower(), hit.column.lower())
            for field in self._spoken.fields:
                if (field.table.name.lower(), field.column.name.lower()) != place:
                    continue
                sign = "!=" if self._cues.negation and not self._cues.absence else "="
                condition = Condition(field, sign, hit.value)
                cost = (1.0 - hit.score) + 0.3 * len(phrases.get(name, ()))
                phrases.setdefault(name, []).append((condition, cost - 0.3 * self._spoken.weight(field)))
                if not exact and len(phrases[name]) == 1:
                    phrases[name].append((None, 0.3))
        kept = [name for name in phrases if not any(name != other and name in other for other in phrases)]
        return [sorted(phrases[name], key=lambda item: item[1])[:3] for name in kept[:MOST_CONDITIONS]]

    def _patterns(self) -> list[Options]:
        texts = [field for field in self._spoken.fields if field.column.is_text]
        found: list[Options] = []
        for pattern in self._cues.patterns:
            ranked = sorted(texts, key=lambda field: self._spoken.gap(field, pattern.at))[:3]
            found.append([(Condition(f, "like", pattern.text), 0.3 * cost) for cost, f in enumerate(ranked)])
        return [options for options in found if options]

    def _averages(self) -> list[Options]:
        sign = self._cues.than_average
        fields = one_per_name(self._spoken.numeric(), self._spoken.preference)[:3]
        if not sign or not fields:
            return []
        return [[(Condition(f, sign, average=True), 0.3 * cost) for cost, f in enumerate(fields)]]

    def _counts_rows(self, number: Number) -> bool:
        """Whether a number counts rows: "at least 3 friends" where friends are a table."""
        names = {word for table in self._schema.tables for word in table_words(table)} | {"time"}
        able = (f for f in self._spoken.fields if f.column.is_number and not self._spoken.reach.is_key(f))
        columns = {word for f in able for word in column_words(f.table, f.column)}
        following = [word for word in number.following if word not in ("or", "more", "different")][:1]
        return any(word in names and word not in columns for word in following)

    def _compared(self, number: Number) -> Options:
        """Fields a number may be compared with: the nearest named one first; a year with years."""
        able = [f for f in self._spoken.fields if f.column.is_number or _stores_numbers(f.column)]
        year = re.fullmatch(r"(1[5-9]|20)\d\d", number.text) is not None
        if year:
            dated = [f for f in able if re.search(r"year|date|time|found", f.column.name, re.I)]
            able = dated or [field for field in able if field in self._spoken.named]
        named = [
            field
            for field in able
            if field in self._spoken.named and not (year and self._spoken.reach.is_key(field))
        ]
        named.sort(key=lambda field: self._spoken.gap(field, number.at))
        pool = named or [field for field in able if not self._spoken.reach.is_key(field)][:3]
        if not named and number.operator == "=" and not year:
            pool += [field for field in able if self._spoken.reach.is_key(field)][:1]
        return [(_comparison(field, number), 0.4 * cost) for cost, field in enumerate(pool[:3])]


def _comparison(field: Field, number: Number) -> Condition:
    """A number against a field: as text where the column holds text, or a telephone number such as 0970..."""
    text = field.column.is_text or re.match(r"0\d", number.text) is not None
    return Condition(field, number.operator, number.text, is_text=text)


def _stores_numbers(column: Column) -> bool:
    """Text columns that store numbers, such as years."""
    samples = [sample for sample in column.samples if sample is not None]
    return bool(samples) and all(re.fullmatch(r"-?\d+(\.\d+)?", str(sample)) for sample in samples)
