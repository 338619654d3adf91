"""Equality of results: canonical cells, digests and the four comparison modes (section 4).

Knows plain values and the value types database drivers return; knows nothing of SQL or programs.
Integers are compared exactly, an integer and a float or two floats within a relative 1e-6 or an
absolute 1e-9 (an identifier must not equal its neighbour), text exactly.
"""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import math
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

from services.text2sql.pisql.objects import Cell, ResultTable, Row

Item = TypeVar("Item")

RELATIVE_TOLERANCE = 1e-6
ABSOLUTE_TOLERANCE = 1e-9
SIGNIFICANT_DIGITS = 6
_EXACT_MATCHING_ROWS = 400


class EqualityMode(StrEnum):
    """How two results are compared."""

    BAG = "bag"
    ORDERED = "ordered"
    SET = "set"
    PERMUTED = "permuted"


def canonical_cell(value: Any) -> Cell:
    """A driver's, program's or frame's value as null, int, float or text."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return _canonical_object(value)


def _canonical_object(value: Any) -> Cell:
    if isinstance(value, decimal.Decimal):
        if value.is_nan():
            return None
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.datetime):
        return None if value != value else value.isoformat(sep=" ")
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, uuid.UUID | datetime.timedelta):
        return str(value)
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, sort_keys=True, default=str)
    if hasattr(value, "item"):  # numpy and pandas scalars
        inner = value.item()
        return canonical_cell(inner) if type(inner) is not type(value) else str(inner)
    text = str(value)
    return None if text in ("NaT", "<NA>") else text


def canonical_rows(rows: Iterable[Sequence[Any]]) -> tuple[Row, ...]:
    """Every cell of `rows` made canonical."""
    return tuple(tuple(map(canonical_cell, row)) for row in rows)


def cells_equal(left: Cell, right: Cell) -> bool:
    """Equality of two canonical cells; nulls are equal to each other, text never equals a number."""
    if left is None or right is None:
        return left is None and right is None
    if isinstance(left, str) or isinstance(right, str):
        return left == right
    if isinstance(left, int) and isinstance(right, int):
        return left == right
    try:
        if math.isinf(left) or math.isinf(right):
            return left == right
        return math.isclose(left, right, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
    except OverflowError:  # an integer beyond the range of floats
        return False


def rows_equal(left: Row, right: Row) -> bool:
    """Cell-wise equality of two canonical rows of the same width."""
    return len(left) == len(right) and all(map(cells_equal, left, right))


def _rounded(cell: Cell) -> str:
    if cell is None:
        return "n"
    if isinstance(cell, str):
        return "s" + cell
    try:
        return "d" + format(float(cell) + 0.0, f".{SIGNIFICANT_DIGITS}g")
    except OverflowError:  # an integer beyond the range of floats
        return "d" + str(cell)


def row_digest(row: Row) -> int:
    """A 128-bit digest of one canonical row, numbers rounded to six significant digits.

    The sandbox computes the same digest over every row of a program's result.
    """
    text = "\x1f".join(map(_rounded, row)).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "big")


def rows_digest(rows: Iterable[Row]) -> str:
    """The order-free digest of a bag of rows: the sum of the row digests, as hexadecimal."""
    return f"{sum(map(row_digest, rows)) % (1 << 128):032x}"


def bags_equal(left: Sequence[Row], right: Sequence[Row]) -> bool:
    """Multiset equality under `rows_equal`."""
    if len(left) != len(right):
        return False
    rest_left, rest_right = Counter(left), Counter(right)
    common = rest_left & rest_right
    rest_left -= common
    rest_right -= common
    if not rest_left:
        return not rest_right
    groups_left, groups_right = _by_shape(rest_left), _by_shape(rest_right)
    return groups_left.keys() == groups_right.keys() and all(
        _pairable(rows, groups_right[shape]) for shape, rows in groups_left.items()
    )


def _by_shape(rows: Counter[Row]) -> dict[tuple[object, ...], list[Row]]:
    """Rows grouped by what must agree exactly: text, nulls and the places of numbers."""
    groups: dict[tuple[object, ...], list[Row]] = defaultdict(list)
    for row, count in rows.items():
        shape = tuple(("number",) if isinstance(cell, int | float) else cell for cell in row)
        groups[shape].extend([row] * count)
    return groups


def _pairable(left: list[Row], right: list[Row]) -> bool:
    """Whether rows that differ only in numbers can be paired one to one within the tolerance."""
    if len(left) != len(right):
        return False
    numbers = _sort_numbers(left), _sort_numbers(right)
    if all(map(rows_equal, *numbers)):
        return True
    if len(left) > _EXACT_MATCHING_ROWS:
        return False
    return _perfect_matching(left, right)


def _sort_numbers(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: tuple(cell for cell in row if isinstance(cell, int | float)))


def _perfect_matching(left: list[Row], right: list[Row]) -> bool:
    """Augmenting paths (Kuhn) over the graph of rows that are equal within the tolerance."""
    neighbours = [[index for index, other in enumerate(right) if rows_equal(row, other)] for row in left]
    partner: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for candidate in neighbours[row]:
            if candidate in seen:
                continue
            seen.add(candidate)
            if candidate not in partner or place(partner[candidate], seen):
                partner[candidate] = row
                return True
        return False

    return all(place(row, set()) for row in range(len(left)))


def sets_equal(left: Sequence[Row], right: Sequence[Row]) -> bool:
    """Equality after duplicates are dropped: every row has an equal row on the other side."""
    first, second = set(left), set(right)
    only_first, only_second = first - second, second - first
    return _covered(only_first, second) and _covered(only_second, first)


def _covered(rows: set[Row], others: set[Row]) -> bool:
    if not rows:
        return True
    groups = _by_shape(Counter(others))
    wanted = _by_shape(Counter(rows))
    return all(
        any(rows_equal(row, other) for other in groups.get(shape, ()))
        for shape, members in wanted.items()
        for row in members
    )


def sequences_equal(
    left: Sequence[Row], right: Sequence[Row], key_columns: Sequence[int] | None = None
) -> bool:
    """Equality in order. Rows of `right` that agree in `key_columns` may swap among themselves.

    Without `key_columns` every row must be in its place.
    """
    if len(left) != len(right):
        return False
    if all(map(rows_equal, left, right)):
        return True
    if not key_columns:
        return False
    start = 0
    while start < len(right):
        end = start + 1
        while end < len(right) and all(
            cells_equal(right[end][key], right[start][key]) for key in key_columns
        ):
            end += 1
        if not bags_equal(left[start:end], right[start:end]):
            return False
        start = end
    return True


def column_permutation(left: Sequence[Row], right: Sequence[Row]) -> tuple[int, ...] | None:
    """A permutation p with `left[i][j] == right[i][p[j]]` as bags, or None.

    Tried only between columns whose multisets agree; at most 5,000 permutations are looked at.
    """
    if not left or not right or len(left) != len(right) or len(left[0]) != len(right[0]):
        return None
    width = len(left[0])
    columns_right = [[(row[index],) for row in right] for index in range(width)]
    options = [
        [
            candidate
            for candidate in range(width)
            if bags_equal([(row[index],) for row in left], columns_right[candidate])
        ]
        for index in range(width)
    ]
    tried = 0

    def extend(chosen: tuple[int, ...]) -> tuple[int, ...] | None:
        nonlocal tried
        if len(chosen) == width:
            tried += 1
            moved = [tuple(row[index] for index in chosen) for row in right]
            return chosen if bags_equal(left, moved) else None
        for candidate in options[len(chosen)]:
            if candidate not in chosen and tried < 5_000:
                found = extend((*chosen, candidate))
                if found is not None:
                    return found
        return None

    return extend(())


def valid_cut(reference: ResultTable, rows: Sequence[Row]) -> bool:
    """Whether `rows` is another valid choice among rows tied at the reference's LIMIT."""
    if not reference.ties or len(rows) != len(reference.rows):
        return False
    rest = list(rows)
    tied = list(reference.ties)
    fixed = [row for row in reference.rows if not _take(tied, row)]
    if not all(_take(rest, row) for row in fixed):
        return False
    tied = list(reference.ties)
    return all(_take(tied, row) for row in rest)


def _take(rows: list[Row], wanted: Row) -> bool:
    """Remove one row equal to `wanted` from `rows`; False when there is none."""
    for index, row in enumerate(rows):
        if rows_equal(row, wanted):
            del rows[index]
            return True
    return False


def equal(left: Sequence[Row], right: Sequence[Row], mode: EqualityMode) -> bool:
    """Compare canonical rows in `mode`; two empty results are equal whatever their width."""
    if left and right and len(left[0]) != len(right[0]):
        return False
    comparisons: dict[EqualityMode, Callable[[Sequence[Row], Sequence[Row]], bool]] = {
        EqualityMode.BAG: bags_equal,
        EqualityMode.ORDERED: sequences_equal,
        EqualityMode.SET: sets_equal,
        EqualityMode.PERMUTED: lambda first, second: (
            bags_equal(first, second) or column_permutation(first, second) is not None
        ),
    }
    return comparisons[mode](left, right)


def results_equal(left: ResultTable, right: ResultTable) -> bool:
    """Bag equality of two results; those cut at the row cap by count and order-free digest."""
    if len(left.columns) != len(right.columns) or left.row_count != right.row_count:
        return False
    if left.truncated or right.truncated:
        return bool(left.digest) and left.digest == right.digest
    return bags_equal(left.rows, right.rows)


def grouped(items: Iterable[Item], result_of: Callable[[Item], ResultTable | None]) -> list[list[Item]]:
    """Items by equal result, in order of first appearance; those without a result are left out."""
    groups: list[tuple[ResultTable, list[Item]]] = []
    for item in items:
        result = result_of(item)
        if result is None:
            continue
        for known, members in groups:
            if results_equal(known, result):
                members.append(item)
                break
        else:
            groups.append((result, [item]))
    return [members for _, members in groups]
