"""Equality of results, held against brute force and against itself."""

from __future__ import annotations

import datetime
import decimal
import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.text2sql.pisql.objects import Cell, ResultTable, Row
from services.text2sql.pisql.results import (
    EqualityMode,
    bags_equal,
    canonical_cell,
    cells_equal,
    column_permutation,
    equal,
    results_equal,
    row_digest,
    rows_digest,
    rows_equal,
    sequences_equal,
    sets_equal,
    valid_cut,
)
from shared.sandbox import row_digest as sandbox_digest

CELLS: st.SearchStrategy[Cell] = st.one_of(
    st.none(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False, width=32),
    st.text(max_size=4),
)
ROWS = st.lists(st.tuples(CELLS, CELLS), max_size=6)


class TestCells:
    @pytest.mark.parametrize(
        ("value", "canonical"),
        [
            (None, None),
            (float("nan"), None),
            (True, 1),
            (decimal.Decimal("4.00"), 4),
            (decimal.Decimal("4.5"), 4.5),
            (decimal.Decimal("NaN"), None),
            (datetime.date(2024, 2, 3), "2024-02-03"),
            (datetime.datetime(2024, 2, 3, 4, 5), "2024-02-03 04:05:00"),
            (b"\x01\xff", "01ff"),
            ("kept  ", "kept  "),
            ([1, "a"], '[1, "a"]'),
        ],
    )
    def test_canonical(self, value: object, canonical: Cell) -> None:
        assert canonical_cell(value) == canonical

    def test_pandas_and_numpy_scalars(self) -> None:
        import numpy as np
        import pandas as pd

        assert canonical_cell(np.int64(7)) == 7
        assert isinstance(canonical_cell(np.int64(7)), int)
        assert canonical_cell(np.float64("nan")) is None
        assert canonical_cell(pd.NaT) is None
        assert canonical_cell(pd.NA) is None

    def test_tolerance_is_for_floats_only(self) -> None:
        assert cells_equal(1.0, 1.0 + 5e-7)
        assert not cells_equal(1.0, 1.0 + 5e-6)
        assert cells_equal(3, 3.0000001)
        assert not cells_equal(12_345_678, 12_345_679)
        assert cells_equal(0.0, 5e-10)
        assert not cells_equal("1", 1)
        assert cells_equal(None, None)
        assert not cells_equal(None, 0)
        assert not cells_equal(10**400, 1.5)


def _brute_force(left: list[Row], right: list[Row]) -> bool:
    return len(left) == len(right) and any(
        all(map(rows_equal, left, order)) for order in itertools.permutations(right)
    )


class TestBags:
    @given(ROWS, st.randoms(use_true_random=False))
    def test_order_never_counts(self, rows: list[Row], random: object) -> None:
        shuffled = list(rows)
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        assert bags_equal(rows, shuffled)
        assert rows_digest(rows) == rows_digest(shuffled)

    @given(ROWS, ROWS)
    def test_agrees_with_every_pairing(self, left: list[Row], right: list[Row]) -> None:
        assert bags_equal(left, right) == _brute_force(left, right)

    @given(st.lists(st.tuples(st.floats(0.5, 1e6), st.floats(0.5, 1e6)), min_size=1, max_size=6))
    def test_noise_within_the_tolerance_is_forgiven(self, rows: list[tuple[float, float]]) -> None:
        noisy = [(a * (1 + 3e-7), b * (1 - 3e-7)) for a, b in rows]
        assert bags_equal(rows, noisy[::-1])

    def test_greedy_pairing_would_fail_here(self) -> None:
        # 1.0 pairs with both; only one assignment serves every row.
        left: list[Row] = [(1.0, 2.0), (1.0 + 8e-7, 1.0)]
        right: list[Row] = [(1.0 + 9e-7, 2.0), (1.0, 1.0)]
        assert bags_equal(left, right)

    def test_counts_count(self) -> None:
        assert not bags_equal([(1,), (1,), (2,)], [(1,), (2,), (2,)])
        assert sets_equal([(1,), (1,), (2,)], [(1,), (2,), (2,)])

    @given(ROWS, ROWS)
    def test_equal_bags_are_equal_sets(self, left: list[Row], right: list[Row]) -> None:
        if bags_equal(left, right):
            assert sets_equal(left, right)


class TestSequences:
    def test_rows_may_swap_under_their_key_only(self) -> None:
        wanted: list[Row] = [("a", 2), ("b", 1), ("c", 1)]
        swapped: list[Row] = [("a", 2), ("c", 1), ("b", 1)]
        assert sequences_equal(wanted, swapped, (1,))
        assert not sequences_equal(wanted, swapped)
        assert not sequences_equal(wanted, [("b", 1), ("a", 2), ("c", 1)], (1,))

    def test_ties_at_a_limit(self) -> None:
        reference = ResultTable(("n",), (("a",), ("b",)), 2, True, ties=(("b",), ("c",)))
        assert valid_cut(reference, [("a",), ("c",)])
        assert valid_cut(reference, [("a",), ("b",)])
        assert not valid_cut(reference, [("b",), ("c",)])
        assert not valid_cut(reference, [("a",), ("d",)])
        assert not valid_cut(reference, [("a",)])


class TestPermutedAndModes:
    def test_finds_the_columns(self) -> None:
        left: list[Row] = [(1, "x", 2.0), (2, "y", 1.0)]
        right: list[Row] = [(2.0, 1, "x"), (1.0, 2, "y")]
        found = column_permutation(left, right)
        assert found == (1, 2, 0)
        assert equal(left, right, EqualityMode.PERMUTED)
        assert not equal(left, right, EqualityMode.BAG)

    def test_columns_that_agree_alone_need_not_agree_together(self) -> None:
        left: list[Row] = [(1, 2), (2, 3)]
        right: list[Row] = [(1, 3), (2, 2)]
        assert column_permutation(left, right) is None

    def test_widths_must_agree(self) -> None:
        assert not equal([(1, 2)], [(1,)], EqualityMode.SET)
        assert equal([], [], EqualityMode.ORDERED)

    def test_cut_results_compare_by_count_and_digest(self) -> None:
        rows: tuple[Row, ...] = ((1,),)
        first = ResultTable(("a",), rows, 20_000, digest="d1")
        assert results_equal(first, ResultTable(("b",), ((9,),), 20_000, digest="d1"))
        assert not results_equal(first, ResultTable(("b",), rows, 20_000, digest="d2"))
        assert not results_equal(first, ResultTable(("b",), rows, 20_001, digest="d1"))
        assert not results_equal(
            ResultTable(("a",), rows, 9, digest=""), ResultTable(("a",), rows, 9, digest="")
        )


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_the_sandbox_computes_the_same_digest(rows: list[Row]) -> None:
    assert rows_digest(rows) == sandbox_digest(rows)


def test_digest_rounds_to_six_digits() -> None:
    assert row_digest((1.0000001,)) == row_digest((1,))
    assert row_digest((1.00001,)) != row_digest((1,))
    assert row_digest(("1",)) != row_digest((1,))
    assert not math.isnan(row_digest((None,)))
