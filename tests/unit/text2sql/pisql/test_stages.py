"""The stages alone: admission, values, linking, examples, votes, plans, budgets, replay."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from services.text2sql.pisql import parsing
from services.text2sql.pisql.budget import BudgetMeter
from services.text2sql.pisql.chat import (
    ChatReply,
    ChatRequest,
    Message,
    Recording,
    RecordingChat,
    ReplayingChat,
)
from services.text2sql.pisql.configuration import (
    Budget,
    Configuration,
    Profile,
    Role,
    Share,
    ValueSettings,
)
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import (
    BadOutputError,
    ModelUnavailableError,
    QuestionInvalidError,
    ReplyMissingError,
    UnknownDatabaseError,
)
from services.text2sql.pisql.objects import (
    Column,
    Example,
    ForeignKey,
    MatchKind,
    PivotProgram,
    ProgramStatus,
    ProgramStyle,
    Question,
    Reference,
    SchemaView,
    Strategy,
    Table,
    ValueHit,
    schema_from_plain,
    to_plain,
)
from services.text2sql.pisql.ports import Ports
from services.text2sql.pisql.readings import readings
from services.text2sql.pisql.stages import (
    s0_admit,
    s2_values,
    s3_linking,
    s4_examples,
    s7_reference,
    s9_checking,
)
from services.text2sql.pisql.stages.s1_catalogue import Semantics, build, fingerprint, profile, restrict
from services.text2sql.pisql.stages.s2_values import MinHasher, ValueIndex, heuristic_keywords, three_grams
from services.text2sql.pisql.stages.s8_candidates import plan
from services.text2sql.pisql.trace import RecordedSimilarity
from tests.unit.text2sql.pisql.doubles import SHOP, ScriptedChat, ShopEngine, table

SETTINGS = Configuration()


def question(text: str) -> Question:
    return Question("q1", "shop", text)


class TestAdmission:
    @pytest.mark.parametrize("text", ["", "   ", "x" * 2_001])
    def test_refuses_bad_text(self, text: str) -> None:
        with pytest.raises(QuestionInvalidError):
            s0_admit.admit(question(text), SHOP, SETTINGS)

    def test_refuses_an_empty_view(self) -> None:
        with pytest.raises(UnknownDatabaseError):
            s0_admit.admit(question("x"), restrict(SHOP, []), SETTINGS)

    def test_out_of_domain_is_lexical(self) -> None:
        assert s0_admit.lexical_refusal(question("Who wrote Hamlet?"), SHOP, ()) is not None
        assert s0_admit.lexical_refusal(question("List the customers"), SHOP, ()) is None
        assert s0_admit.lexical_refusal(question("How many are there?"), SHOP, ()) is None


class TestCatalogue:
    def test_profile_counts_and_hides(self) -> None:
        engine = ShopEngine()
        asked: list[str] = []

        def query(sql: str) -> list[tuple[object, ...]]:
            asked.append(sql)
            return list(engine._connection.execute(sql))

        bare = Table(
            "orders", (Column("id", "INTEGER"), Column("customer_id", "INTEGER"), Column("amount", "REAL"))
        )
        found = profile(bare, query, "sqlite", sensitive=["amount"])
        engine.close()
        amount = found.columns[2]
        assert (found.row_count, amount.null_share, amount.distinct_count) == (4, 0.25, 3)
        assert (amount.samples, amount.minimum, found.sample_rows) == ((), None, ())
        assert found.columns[1].samples == (1, 2, 3)
        assert not any('GROUP BY "amount"' in sql for sql in asked)

    def test_fingerprint_is_of_structure(self) -> None:
        same = dataclasses.replace(SHOP.tables[0], row_count=99, description="x")
        assert fingerprint(SHOP.tables, SHOP.foreign_keys) == fingerprint(
            [same, SHOP.tables[1]], SHOP.foreign_keys
        )
        other = dataclasses.replace(SHOP.tables[0], columns=SHOP.tables[0].columns[:2])
        assert fingerprint(SHOP.tables, ()) != fingerprint([other, SHOP.tables[1]], ())

    def test_semantics_join_and_restrict_cuts(self) -> None:
        semantics = Semantics(
            descriptions={"CUSTOMER.country": "home"},
            sensitive=["customer.name"],
            synonyms={"orders": ["sales"]},
        )
        view = build("shop", "sqlite", SHOP.tables, SHOP.foreign_keys, semantics)
        customer = view.tables[0]
        assert customer.columns[2].description == "home"
        assert customer.columns[1].sensitive
        assert view.tables[1].synonyms == ("sales",)
        cut = restrict(view, ["orders"])
        assert ([t.name for t in cut.tables], cut.foreign_keys) == (["orders"], ())
        assert restrict(view, None) is view

    def test_views_survive_json(self) -> None:
        assert schema_from_plain(json.loads(json.dumps(to_plain(SHOP)))) == SHOP


class TestValues:
    INDEX = ValueIndex.build(
        {
            ("customer", "country"): ["Italy", "Norway", "United Kingdom", "New Zealand"],
            ("customer", "name"): ["Ada Lovelace", "Bo Derek", "Italy Jones"],
        }
    )

    def test_minhash_estimates_jaccard(self) -> None:
        hasher = MinHasher(400)
        one, two = "student transcripts", "student transcript"
        estimate = float(np.mean(hasher.signature(one) == hasher.signature(two)))
        exact = len(three_grams(one) & three_grams(two)) / len(three_grams(one) | three_grams(two))
        assert abs(estimate - exact) < 0.1

    def test_scan_and_lookup_agree(self, monkeypatch: pytest.MonkeyPatch) -> None:
        columns = {("t", "c"): [f"value number {n * 7919 % 1000}" for n in range(300)]}
        words = ("value number 12", "nmber 7", "unrelated")
        scanned = [ValueIndex.build(columns).similar(word) for word in words]
        monkeypatch.setattr(s2_values, "_SCANNED_VALUES", 10)
        assert [ValueIndex.build(columns).similar(word) for word in words] == scanned

    @pytest.mark.parametrize(
        ("text", "value", "kind"),
        [
            ("orders from italy", "Italy", MatchKind.EXACT),
            ("customers in Kingdom", "United Kingdom", MatchKind.SUBSTRING),
            ("who lives in Norwway?", "Norway", MatchKind.EDIT),
            ("named 'Bo Derek'", "Bo Derek", MatchKind.EXACT),
        ],
    )
    def test_finds_what_is_meant(self, text: str, value: str, kind: MatchKind) -> None:
        hits = s2_values.retrieve(heuristic_keywords(text), self.INDEX, SHOP, ValueSettings())
        assert (value, kind) in {(hit.value, hit.kind) for hit in hits}

    def test_finds_nothing_in_plain_words(self) -> None:
        assert (
            s2_values.retrieve(heuristic_keywords("how many are there"), self.INDEX, SHOP, ValueSettings())
            == ()
        )

    def test_limits_and_grants(self) -> None:
        index = ValueIndex.build({("customer", "country"): [f"Place {n}" for n in range(40)]})
        hits = s2_values.retrieve(("Place",), index, SHOP, ValueSettings())
        assert len(hits) == 5
        assert s2_values.retrieve(("Place",), index, restrict(SHOP, ["orders"]), ValueSettings()) == ()

    def test_embeddings_weed_out_lookalikes(self) -> None:
        """Spelling keeps what is close, meaning what is meant."""
        meant = {("Norwway", "Norway"): 0.9, ("Itzzy", "Italy"): 0.8, ("Itzzy", "Ada"): 0.1}

        class ScriptedSimilarity:
            async def compare(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
                return [meant.get(pair, 0.0) for pair in pairs]

        def found(*phrases: str) -> list[str]:
            hits = s2_values.retrieve_by_meaning(
                phrases, self.INDEX, SHOP, ValueSettings(), RecordedSimilarity(ScriptedSimilarity())
            )
            return [hit.value for hit in asyncio.run(hits)]

        def spelt(phrase: str) -> list[str]:
            return [hit.value for hit in s2_values.retrieve((phrase,), self.INDEX, SHOP, ValueSettings())]

        assert (found("Norwway"), spelt("Norwway")) == (["Norway"], ["Norway"])
        assert (found("Itzzy"), spelt("Itzzy")) == (["Italy"], [])
        assert found("Italya") == []

    def test_comparisons_are_remembered(self) -> None:
        known = RecordedSimilarity(None, {'["a", "b"]': 0.5})
        assert asyncio.run(known.compare([("a", "b")])) == [0.5]
        with pytest.raises(ModelUnavailableError):
            asyncio.run(known.compare([("a", "c")]))

    def test_survives_bytes(self) -> None:
        again = ValueIndex.load(self.INDEX.dump())
        assert again.similar("Norwway") == self.INDEX.similar("Norwway")
        assert len(again) == len(self.INDEX)

    def test_long_texts_and_identifiers_stay_out(self) -> None:
        values = ["x" * 101, "0123456789abcdef0123", "12345", " ", "kept"]
        assert len(ValueIndex.build({("t", "c"): values})) == 1


def _chain(count: int) -> SchemaView:
    tables = tuple(Table(f"t{n}", (Column("id", "INT"), Column(f"word{n}", "TEXT"))) for n in range(count))
    keys = tuple(ForeignKey(f"t{n}", ("id",), f"t{n + 1}", ("id",)) for n in range(count - 1))
    return SchemaView("d", "sqlite", tables, keys)


class TestLinking:
    def test_paths_bring_the_tables_between(self) -> None:
        assert s3_linking.joining_tables(_chain(5), ["t0", "t3"]) == {
            "t1": "joins t0 and t3",
            "t2": "joins t0 and t3",
        }
        assert s3_linking.joining_tables(_chain(5), ["t4"]) == {}

    def test_ranking_uses_names_and_hits(self) -> None:
        ranked = s3_linking.rank_tables(question("which word3 is it?"), _chain(6), ())
        assert ranked[0][0] == "t3"
        hit = ValueHit("x", "t5", "word5", "x", 1.0, MatchKind.EXACT)
        assert s3_linking.rank_tables(question("x"), _chain(6), (hit,))[0][0] == "t5"

    def test_replies_are_validated(self) -> None:
        reply = (
            '{"tables": ["CUSTOMER", "ghost"], "columns": ["orders.amount", "orders.nope"], "reasons": {}}'
        )
        links = s3_linking.read_links(reply, SHOP)
        assert (links.tables, links.columns, links.dropped) == (("customer", "orders"), ("orders.amount",), 2)
        with pytest.raises(BadOutputError):
            s3_linking.read_links('{"columns": []}', SHOP)

    def test_keys_of_kept_tables_stay(self) -> None:
        view = s3_linking.keep(SHOP, {"orders": "a", "customer": "b"}, {"orders.amount"})
        assert [column.name for column in view.tables[1].columns] == ["id", "customer_id", "amount"]
        assert [column.name for column in view.tables[0].columns] == ["id", "name", "country"]
        assert view.pruned


class TestExamples:
    EXAMPLES = (
        Example(
            "e1",
            "other",
            "How many boats are there for each harbour?",
            "SELECT h, COUNT(*) FROM b GROUP BY h",
        ),
        Example("e2", "other", "Which boat is the longest?", "SELECT b FROM b ORDER BY l DESC LIMIT 1"),
        Example(
            "e3", "shop", "Which customer is the oldest?", "SELECT name FROM customer", fingerprint="old"
        ),
    )

    def test_own_database_first_then_shape(self) -> None:
        found = s4_examples.retrieve(
            question("How many orders are there for each customer?"), SHOP, self.EXAMPLES, (), 3
        )
        assert [item.id for item in found] == ["e3", "e1", "e2"]
        assert [item.stale for item in found] == [True, False, False]

    def test_a_question_is_no_example_of_itself(self) -> None:
        found = s4_examples.retrieve(question("which customer is the oldest?"), SHOP, self.EXAMPLES, (), 3)
        assert "e3" not in {item.id for item in found}


def made(
    name: str,
    rows: tuple[tuple[int, ...], ...],
    style: ProgramStyle = ProgramStyle.CODE,
    **more: object,
) -> PivotProgram:
    status = ProgramStatus.OK if rows else ProgramStatus.EMPTY
    base = PivotProgram(name, style, f"# {name}", (), 0, status=status, result=table(*rows))
    return dataclasses.replace(base, **more)  # type: ignore[arg-type]


class TestReference:
    def test_the_largest_group_wins_and_its_shortest_speaks(self) -> None:
        long = made("long", ((1,),), source="x" * 100)
        reference = s7_reference.choose([made("odd", ((2,),)), long, made("short", ((1,),))])
        assert reference is not None
        assert (reference.program.id, reference.members) == ("short", ("long", "short"))
        assert reference.support == pytest.approx(2 / 3)

    def test_errors_never_vote_and_empty_counts_half(self) -> None:
        broken = made("b", ((1,),), status=ProgramStatus.ERROR, result=None)
        assert s7_reference.choose([broken]) is None
        reference = s7_reference.choose([made("e1", ()), made("full", ((1,),))])
        assert reference is not None
        assert reference.program.id == "full"
        assert reference.support == pytest.approx(1 / 1.5)

    def test_ties_fall_by_style_repairs_rows_temperature(self) -> None:
        both = [made("a", ((1,),)), made("b", ((1,),), ProgramStyle.COMMENT)]
        same = [made("c", ((2,),)), made("d", ((2,),))]
        reference = s7_reference.choose([*same, *both])
        assert reference is not None
        assert reference.members == ("a", "b")
        mended = made("m", ((1,),), repairs=1)
        chosen = s7_reference.choose([mended, made("clean", ((2,),))])
        assert chosen is not None
        assert chosen.program.id == "clean"
        hot = made("hot", ((1,),), temperature=0.8)
        cold = s7_reference.choose([hot, made("cold", ((2,),), temperature=0.2)])
        assert cold is not None
        assert cold.program.id == "cold"

    def test_sql_that_follows_no_program_votes_among_their_results(self) -> None:
        programs = [made("a", ((1,),)), made("b", ((2,),)), made("c", ())]

        def chosen(*results: tuple[tuple[int, ...], ...]) -> str:
            reference = s7_reference.choose(programs, [table(*rows) for rows in results])
            assert reference is not None
            assert reference.support == pytest.approx(0.4 if reference.program.id != "c" else 0.2)
            return reference.program.id

        assert chosen() == "a"
        assert chosen(((2,),)) == "b"
        assert chosen(((3,),)) == "a"
        # A result without rows counts half, whoever gives it.
        assert chosen((), ()) == "c"
        assert chosen(()) == "a"


class TestPlan:
    def test_standard_spread_is_nine(self) -> None:
        programs = [
            made("code-1", ((1,),)),
            made("comment-1", ((1,),), ProgramStyle.COMMENT),
            made("code-2", ((2,),)),
            made("comment-2", ((3,),), ProgramStyle.COMMENT),
        ]
        assignments = plan(programs, s7_reference.choose(programs), SETTINGS)
        keys = [assignment.key for assignment in assignments]
        assert len(keys) == len(set(keys)) == 9
        assert ("", "direct") in keys
        assert {key for key in keys if key[1] == "follow_code"} == {
            (name, "follow_code") for name in ("code-1", "comment-1", "code-2", "comment-2")
        }

    def test_dry_programs_guide_and_nothing_means_direct(self) -> None:
        dry = made("code-1", (), status=ProgramStatus.DRY, result=None)
        strategies = [item.strategy for item in plan([dry], None, SETTINGS)]
        assert Strategy.FOLLOW_CODE in strategies
        assert [item.strategy for item in plan([], None, SETTINGS)] == [Strategy.DIRECT]


class TestBudget:
    def test_shares_tokens_and_wall(self) -> None:
        now = [0.0]
        meter = BudgetMeter(Budget(calls={Share.SQL: 2}, prompt_tokens=100, wall_seconds=10), lambda: now[0])
        assert not meter.take_call(Share.PROGRAMS)
        assert meter.use().exhausted
        assert meter.take_call(Share.SQL)
        meter.record_tokens(100, 0)
        assert not meter.take_call(Share.SQL)
        now[0] = 11
        assert meter.seconds_left() == 0
        assert not meter.sandbox_left()
        assert meter.use().calls == 1

    @pytest.mark.parametrize("name", list(Profile))
    def test_profiles_have_room_for_their_plan(self, name: Profile) -> None:
        settings = Configuration.for_profile(name)
        calls = settings.budget.calls
        assert calls[Share.PROGRAMS] == len(settings.styles) * settings.samples_per_style
        assert calls[Share.SQL] >= 1
        if name is Profile.STANDARD:
            assert sum(calls.values()) == 24


class TestReplay:
    REQUEST = ChatRequest(Role.SQL_WRITER, "m", (Message("user", "x"),))

    def test_records_and_answers_in_order(self, tmp_path: Path) -> None:
        replies = iter("abc")
        path = tmp_path / "replies.jsonl"
        chat = RecordingChat(ScriptedChat(lambda _: next(replies)), path=path)

        async def ask(model: RecordingChat | ReplayingChat, times: int) -> list[str]:
            return [(await model.complete(self.REQUEST)).text for _ in range(times)]

        assert asyncio.run(ask(chat, 2)) == ["a", "b"]
        path.write_text(path.read_text() + '{"key": "cut sho')
        again = Recording.load(path)
        assert asyncio.run(ask(ReplayingChat(again), 2)) == ["a", "b"]
        resumed = RecordingChat(ScriptedChat(lambda _: next(replies)), again)
        assert asyncio.run(ask(resumed, 3)) == ["a", "b", "c"]
        with pytest.raises(ReplyMissingError):
            asyncio.run(ask(ReplayingChat(again), 4))

    def test_what_shapes_the_reply_shapes_the_key(self) -> None:
        changes = [{"temperature": 0.5}, {"seed": 2}, {"model": "n"}, {"grammar": "root"}, {"max_tokens": 9}]
        keys = {dataclasses.replace(self.REQUEST, **change).key for change in changes}  # type: ignore[arg-type]
        assert len(keys | {self.REQUEST.key}) == 6
        assert dataclasses.replace(self.REQUEST, tags=(("a", "b"),)).key == self.REQUEST.key


def test_calls_made_together_are_waited_for_once() -> None:
    """Overhead is wall time less the time in which the model was at work."""

    class ScriptedSlow:
        async def complete(self, request: ChatRequest) -> ChatReply:
            await asyncio.sleep(0.05)
            return ChatReply("```sql\nSELECT 1\n```")

    async def ask_three() -> StageContext:
        settings = Configuration()
        engine = ShopEngine()
        engine.close()
        ports = Ports(chat=ScriptedSlow(), programs=None, engine=engine)
        context = StageContext(settings, ports, BudgetMeter(settings.budget, ports.clock))
        calls = (context.ask(Share.SQL, Role.SQL_WRITER, (), parsing.sql_block, seed=n) for n in range(3))
        await asyncio.gather(*calls)
        return context

    assert 45 <= asyncio.run(ask_three()).timings_ms["model"] < 140


@pytest.mark.parametrize(
    ("asked", "rows", "contested"),
    [
        ("How many customers are there?", ((3,),), False),
        ("How many customers are there?", ((4,),), True),
        ("Names of customers and their number of orders", ((3,),), True),
    ],
)
def test_a_reading_that_gives_other_rows_contests(
    asked: str, rows: tuple[tuple[int, ...], ...], contested: bool
) -> None:
    program = made("code-1", rows)
    assert program.result is not None
    engine = ShopEngine()
    context = StageContext(
        SETTINGS, Ports(ScriptedChat(lambda _request: ""), None, engine), BudgetMeter(Budget(), lambda: 0.0)
    )
    found = readings(SHOP, (), asked)
    reference = Reference(program, program.result, 1.0, ("code-1",))
    assert asyncio.run(s9_checking.is_contested(found, reference, context)) is contested
    engine.close()
