"""Metrics against worked examples and the public definitions; significance against exact values."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.text2sql.evaluation import metrics
from services.text2sql.evaluation.ablations import NAMES, configuration
from services.text2sql.evaluation.datasets import Dataset, Item, example_databases, examples_for, expand_gold
from services.text2sql.evaluation.harness import Record
from services.text2sql.evaluation.report import build, markdown, plot, plot_curves, summarise
from services.text2sql.evaluation.significance import bootstrap, compare, mcnemar


class TestMatching:
    def test_sets_ignore_duplicates_and_order_but_not_columns(self) -> None:
        assert metrics.execution_match_set([(1, 2), (1, 2), (3, 4)], [(3, 4), (1, 2)])
        assert not metrics.execution_match_set([(2, 1)], [(1, 2)])
        assert not metrics.execution_match_bag([(1,), (1,)], [(1,)])


class TestSoftF1:
    @pytest.mark.parametrize(
        ("predicted", "gold", "expected"),
        [
            ([], [], 1.0),
            ([(1, "a")], [(1, "a")], 1.0),
            ([("a", 1)], [(1, "a")], 1.0),
            ([], [(1,)], 0.0),
            # Row 1 matches half and misses half; row 2 is missing: P = .5/1, R = .5/2.
            ([(1, "x")], [(1, "a"), (2, "b")], 2 * 0.5 * 0.25 / 0.75),
        ],
    )
    def test_worked_examples(
        self, predicted: list[tuple[object, ...]], gold: list[tuple[object, ...]], expected: float
    ) -> None:
        assert metrics.soft_f1(predicted, gold) == pytest.approx(expected)  # type: ignore[arg-type]

    @given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=5))
    def test_gold_scores_one(self, rows: list[tuple[int, int]]) -> None:
        assert metrics.soft_f1(rows, rows) == pytest.approx(1.0)


class TestRVes:
    @pytest.mark.parametrize(
        ("tau", "reward"),
        [
            (2.0, 1.25),
            (1.99, 1.0),
            (1.0, 1.0),
            (0.99, 0.75),
            (0.5, 0.75),
            (0.49, 0.5),
            (0.25, 0.5),
            (0.1, 0.25),
            (0.0, 0.0),
        ],
    )
    def test_reward_steps(self, tau: float, reward: float) -> None:
        assert metrics.reward(tau) == reward

    def test_ceiling_and_mismatches(self) -> None:
        assert (
            metrics.r_ves([9.0, 9.0])
            == pytest.approx(metrics.R_VES_CEILING)
            == pytest.approx(111.8, abs=0.01)
        )
        assert metrics.r_ves([1.0, None]) == pytest.approx(50.0)
        assert metrics.r_ves([0.9]) == pytest.approx(100 * math.sqrt(0.75))

    def test_the_public_scripts_flaws_are_kept(self) -> None:
        assert metrics.official_ratio([1.0] * 5, [1.0] * 5) == 0.0
        times = [1.0, 1.1] * 50
        assert metrics.official_ratio([*times, 90.0], [*([1.0] * 100), 1.0]) == pytest.approx(1.05)
        assert metrics.fair_ratio([1.0] * 5, [1.0] * 5) == 1.0

    def test_the_fair_variant_alternates_after_warming_up(self) -> None:
        order: list[str] = []

        def run(name: str, seconds: float) -> float:
            order.append(name)
            return seconds

        tau = metrics.time_fair(lambda: run("g", 2.0), lambda: run("p", 1.0), 4)
        assert tau == 2.0
        assert "".join(order) == "gp" + "pg" + "gp" + "pg" + "gp"
        order.clear()
        metrics.time_official(lambda: run("g", len(order) + 1.0), lambda: run("p", 1.0), 3)
        assert "".join(order) == "pgpgpg"

    def test_old_ves(self) -> None:
        assert metrics.ves([(4.0, 1.0), None]) == pytest.approx(100.0)


class TestSignificance:
    @pytest.mark.parametrize(
        ("first", "second", "expected"), [(0, 0, 1.0), (0, 5, 0.0625), (1, 9, 0.021484375), (5, 5, 1.0)]
    )
    def test_mcnemar_is_exact(self, first: int, second: int, expected: float) -> None:
        assert mcnemar(first, second) == pytest.approx(expected)

    def test_bootstrap_covers_the_difference(self) -> None:
        low, high = bootstrap([0.0] * 50 + [1.0] * 50, [0.0] * 40 + [1.0] * 60)
        assert low <= 10 <= high
        assert bootstrap([1.0], [1.0]) == (0.0, 0.0)

    def test_compare(self) -> None:
        found = compare([True] * 5 + [False] * 15, [True] * 20)
        assert (found.only_first, found.only_second, found.difference) == (0, 15, 75.0)
        assert found.significant


class TestDatasets:
    def test_braces_mean_any_non_empty_subset(self) -> None:
        assert expand_gold("SELECT {a, b}, c FROM t GROUP BY {};SELECT d FROM t;") == (
            "SELECT a, c FROM t GROUP BY a",
            "SELECT b, c FROM t GROUP BY b",
            "SELECT a, b, c FROM t GROUP BY a, b",
            "SELECT d FROM t",
        )

    def test_examples_never_come_from_the_tested_database(self) -> None:
        names = [f"d{n}" for n in range(10)]
        items = tuple(Item(name, name, "q", ("SELECT 1",)) for name in names)
        data = Dataset("x", items, dict.fromkeys(names, "sqlite://"))
        half = example_databases(names)
        assert len(half) == 5
        for name in names:
            assert {item.database_id for item in examples_for(data, name)} == half - {name}

    def test_limited_keeps_the_spread(self) -> None:
        items = tuple(Item(str(n), "d", "q", ()) for n in range(10))
        assert [item.id for item in Dataset("x", items, {}).limited(5).items] == ["0", "2", "4", "6", "8"]


def record(name: str, verdict: str, right: bool, *, answerable: bool = True) -> Record:
    return Record(
        item=name, database="d", difficulty="easy", answerable=answerable, verdict=verdict, sql="SELECT 1",
        code="", ran=True, ex_set=right, ex_bag=right, soft_f1=float(right), oracle=True,
        reference_right=right, pivot_runs=2, pivot_matches=int(right), programs=2, calls=3,
        prompt_tokens=10, completion_tokens=5, seconds=1.0, overhead_ms=20.0,
    )  # fmt: skip


class TestReport:
    RECORDS = (
        record("a", "verified", True),
        record("b", "verified", True),
        record("c", "majority", False),
        record("d", "refused", False),
        record("e", "refused", False, answerable=False),
        record("f", "unverified", False, answerable=False),
    )

    def test_figures(self) -> None:
        figures = summarise(self.RECORDS)
        assert figures["questions"] == 4
        assert figures["ex_set"] == 50.0
        assert (figures["verified_rate"], figures["verified_precision"]) == (50.0, 100.0)
        assert figures["unverified_precision"] == 0.0
        assert (figures["refusal_precision"], figures["refusal_recall"]) == (50.0, 50.0)
        assert figures["pivot_accuracy"] == 25.0
        assert figures["oracle_ex"] == 100.0
        assert "r_ves" not in figures

    def test_markdown_and_plots(self) -> None:
        by_item = {item.item: item for item in self.RECORDS}
        report = build("demo", {"one": by_item, "two": by_item})
        text = markdown(report)
        assert "| one | 4.0 | 50.0 |" in text
        assert "| two - one | +0.0 | +0.0 .. +0.0 | 1.000 |" in text
        assert plot(report).startswith(b"\x89PNG")
        panels = {title: {"a": [(0.0, 1.0), (1.0, 2.0)]} for title in "bcde"}
        assert plot_curves(panels, x="x", y="y").startswith(b"\x89PNG")


@pytest.mark.parametrize("name", NAMES)
def test_every_ablation_turns_one_switch(name: str) -> None:
    made = configuration(name, model="m", seed=3)
    assert (made.model, made.seed) == ("m", 3)
