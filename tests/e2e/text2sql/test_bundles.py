"""Pi-SQL on real data: every gold query, the whole pipeline with a scripted oracle, replays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.text2sql.oracle import Rates, ScriptedOracle, Truth, truths_of
from benchmarks.text2sql.recovery import KINDS, rates_at
from benchmarks.text2sql.selection import gold_against_gold, select
from services.text2sql.evaluation import ablations, metrics
from services.text2sql.evaluation.datasets import Dataset, Item, defog_sql_eval, spider_dev
from services.text2sql.evaluation.environment import Environment
from services.text2sql.evaluation.harness import Harness, Record, evaluate
from services.text2sql.evaluation.report import summarise
from services.text2sql.pisql.chat import ChatReply, ChatRequest, RecordingChat, ReplayingChat
from services.text2sql.pisql.configuration import Answerability
from services.text2sql.pisql.objects import Question
from services.text2sql.pisql.pipeline import answer
from services.text2sql.pisql.stages.s0_admit import lexical_refusal
from services.text2sql.pisql.stages.s2_values import heuristic_keywords, retrieve
from services.text2sql.pisql.trace import RecordedTimes
from shared.sandbox import Sandbox

QUESTIONS = 24


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(forms=("rows",)) as made:
        yield made


@pytest.fixture(scope="module")
def spider(shared_data: Path, sandbox: Sandbox) -> Environment:
    return Environment(spider_dev(shared_data / "text2sql" / "spider-dev"), sandbox)


@pytest.fixture(scope="module")
def defog(shared_data: Path, sandbox: Sandbox) -> Environment:
    return Environment(defog_sql_eval(shared_data / "text2sql" / "defog-sql-eval"), sandbox)


@pytest.fixture(scope="module")
def truths(spider: Environment) -> dict[str, Truth]:
    return truths_of(spider, spider.dataset.limited(QUESTIONS).items)


@pytest.fixture(scope="module")
def items(spider: Environment, truths: dict[str, Truth]) -> list[Item]:
    return [item for item in spider.dataset.items if item.id in truths]


@dataclasses.dataclass
class ScriptedGold:
    """A model double that writes gold."""

    gold: dict[str, str]

    async def complete(self, request: ChatRequest) -> ChatReply:
        return ChatReply(f"```sql\n{self.gold[request.tag('question')]}\n```")


class TestGold:
    @pytest.mark.parametrize(
        ("name", "count"),
        [
            ("spider", 60),
            ("defog", 60),
            pytest.param("spider", 380, marks=pytest.mark.slow),
            pytest.param("defog", 314, marks=pytest.mark.slow),
        ],
    )
    async def test_passes_the_gate_runs_and_scores_100(
        self, name: str, count: int, request: pytest.FixtureRequest
    ) -> None:
        """Every accepted statement runs through gate and engine; gold as the answer scores 100.0."""
        environment: Environment = request.getfixturevalue(name)
        every = [item for item in environment.dataset.items if item.answerable]
        asked = every[:: max(1, len(every) // count)]
        harness = Harness(environment, ScriptedGold({item.id: item.gold[0] for item in asked}))
        direct = ablations.configuration("direct", answerability=Answerability.OFF)
        found = await evaluate(harness, asked, {"direct": direct})
        figures = summarise(list(found["direct"].values()))
        assert figures["questions"] >= count
        assert (figures["ex_set"], figures["ex_bag"], figures["valid_sql"]) == (100.0, 100.0, 100.0)

    def test_against_itself_is_no_hundred_but_near(self, spider: Environment) -> None:
        """Only the order of magnitude is stable: noise moves single pairs between the steps of R."""
        floor = gold_against_gold(spider, 10, 20)
        assert 60 < floor["r_ves_official"] <= metrics.R_VES_CEILING + 1e-9
        assert 80 < floor["r_ves_fair"] <= metrics.R_VES_CEILING + 1e-9


async def run(spider: Environment, oracle: object, items: list[Item], *names: str) -> dict[str, list[Record]]:
    harness = Harness(spider, oracle)  # type: ignore[arg-type]
    found = await evaluate(harness, items, ablations.configurations(names))
    return {name: list(records.values()) for name, records in found.items()}


class TestOracle:
    async def test_without_errors_everything_is_verified_and_right(
        self, spider: Environment, truths: dict[str, Truth], items: list[Item]
    ) -> None:
        found = await run(spider, ScriptedOracle(truths, Rates()), items, "direct", "fast", "standard")
        for name, records in found.items():
            figures = summarise(records)
            assert figures["ex_set"] == figures["ex_bag"] == 100.0, name
            if name != "direct":
                assert figures["verified_rate"] == figures["pivot_accuracy"] == 100.0

    async def test_mechanisms_recover_what_the_model_loses(
        self, spider: Environment, truths: dict[str, Truth], items: list[Item]
    ) -> None:
        oracle = ScriptedOracle(truths, rates_at(0.4))
        found = await run(spider, oracle, items, "direct", "standard")
        direct, standard = (summarise(found[name]) for name in ("direct", "standard"))
        assert standard["ex_set"] >= direct["ex_set"] + 10
        assert standard["verified_precision"] > direct["ex_set"] + 15
        assert standard["oracle_ex"] >= standard["ex_set"]

    @pytest.mark.parametrize(
        ("kind", "error", "with_it", "without", "points"),
        [
            ("failures", 0.6, "direct", "direct_no_repair", 15),
            ("failures", 0.6, "fast", "fast_no_repair", 15),
            ("failures", 0.8, "standard", "no_repair", 10),
            ("sql_slips", 0.8, "fast", "fast_no_repair", 4),
            ("program_slips", 0.8, "standard", "no_counter_check", 8),
        ],
    )
    async def test_each_repair_recovers_the_errors_it_is_made_for(
        self,
        spider: Environment,
        truths: dict[str, Truth],
        items: list[Item],
        kind: str,
        error: float,
        with_it: str,
        without: str,
        points: float,
    ) -> None:
        oracle = ScriptedOracle(truths, KINDS[kind].rates(error))
        found = await run(spider, oracle, items, with_it, without)
        repaired, lost = (summarise(found[name])["ex_set"] for name in (with_it, without))
        assert repaired >= lost + points

    async def test_a_sure_hand_repairs_every_failure(
        self, spider: Environment, truths: dict[str, Truth], items: list[Item]
    ) -> None:
        """Closed form: with b of the statements broken and r of them mended, direct EX is 1 - b (1 - r)."""
        for repair, expected in ((1.0, 100.0), (0.0, 0.0)):
            oracle = ScriptedOracle(truths, Rates(program_crash=1.0, broken=1.0, repair=repair))
            found = await run(spider, oracle, items[:8], "direct", "fast", "standard")
            assert {summarise(records)["ex_set"] for records in found.values()} == {expected}

    async def test_the_fastest_correct_sql_is_chosen(self, spider: Environment) -> None:
        dataset = spider.dataset.limited(16)
        small = Environment(dataset, spider.sandbox)
        chosen = await select(small, 16)
        assert chosen.differing >= 8
        assert chosen.fastest >= 0.9 * chosen.differing


async def test_the_same_numbers_twice_from_recorded_replies(
    spider: Environment, truths: dict[str, Truth], items: list[Item]
) -> None:
    """Answers are equal to the last field, save for durations; the second time there is no model."""
    recording = RecordingChat(ScriptedOracle(truths, rates_at(0.4)))
    configuration = ablations.configuration("standard")
    for item in items[:12]:
        knowledge = spider.knowledge(item.database)
        asked = Question(item.id, item.database, item.question)
        with spider.ports(item.database, recording) as ports:
            timed = RecordedTimes(ports.engine)
            first = await answer(asked, knowledge, configuration, dataclasses.replace(ports, engine=timed))
        replaying = ReplayingChat(recording.recording)
        with spider.ports(item.database, replaying) as ports:
            again = RecordedTimes(ports.engine, timed.times)
            second = await answer(asked, knowledge, configuration, dataclasses.replace(ports, engine=again))
        assert (first.sql, first.verdict, first.confidence) == (second.sql, second.verdict, second.confidence)
        assert [c.match for c in first.candidates] == [c.match for c in second.candidates]
        assert [p.status for p in first.programs] == [p.status for p in second.programs]
        assert first.calls == second.calls


def test_lexical_refusal_is_precise(defog: Environment, spider: Environment) -> None:
    """No answerable question is refused; a fair part of those that cannot be answered is."""

    def refused(environment: Environment, item: Item) -> bool:
        known = environment.knowledge(item.database)
        assert known.values is not None
        hits = retrieve(
            heuristic_keywords(item.question),
            known.values,
            known.schema,
            ablations.configuration("fast").values,
        )
        asked = Question(item.id, item.database, item.question)
        return lexical_refusal(asked, known.schema, hits) is not None

    wrong = [item.question for item in spider.dataset.items if refused(spider, item)]
    wrong += [i.question for i in defog.dataset.items if i.answerable and refused(defog, i)]
    right = [refused(defog, item) for item in defog.dataset.items if not item.answerable]
    assert len(wrong) <= 2, wrong
    assert sum(right) / len(right) > 0.2


def test_every_question_of_both_bundles_is_loaded(defog: Environment, spider: Environment) -> None:
    def count(dataset: Dataset, answerable: bool) -> int:
        return sum(item.answerable is answerable for item in dataset.items)

    assert count(spider.dataset, True) == len(spider.dataset.items) >= 380
    assert (count(defog.dataset, True), count(defog.dataset, False)) == (314, 105)
