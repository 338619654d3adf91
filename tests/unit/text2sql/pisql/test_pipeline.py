"""The whole pipeline over doubles: verdicts, early exit, repair, doubt, budgets, failing ports."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from services.text2sql.pisql.chat import ChatRequest, Recording, RecordingChat, ReplayingChat
from services.text2sql.pisql.configuration import (
    NEVER,
    Budget,
    Configuration,
    ModelProfile,
    Profile,
    Role,
    Selection,
    Share,
)
from services.text2sql.pisql.errors import ModelUnavailableError, SandboxUnavailableError
from services.text2sql.pisql.objects import Answer, Match, ProgramStatus, Question, Verdict
from services.text2sql.pisql.pipeline import Knowledge, answer
from services.text2sql.pisql.ports import Event, Ports
from services.text2sql.pisql.trace import RecordedTimes
from tests.unit.text2sql.pisql.doubles import SHOP, ScriptedChat, ScriptedPrograms, ShopEngine, program, table

GOOD = "SELECT name FROM customer"
NAMES = table(("Ada",), ("Bo",), ("Cy",))
COUNTRIES = table(("Italy",), ("Norway",), ("Italy",))
ASKED = "List the names of the customers"


@pytest.fixture
def engine() -> Iterator[ShopEngine]:
    made = ShopEngine()
    yield made
    made.close()


def python(source: str) -> str:
    return f"```python\n{source}\n```"


def sql(text: str) -> str:
    return f"```sql\n{text}\n```"


def by_role(**replies: str | Callable[[ChatRequest], str]) -> ScriptedChat:
    """A chat double with one reply, or one function, per role."""

    def script(request: ChatRequest) -> str:
        reply = replies[request.role.value]
        return reply if isinstance(reply, str) else reply(request)

    return ScriptedChat(script)


def ask(
    chat: Any,
    engine: ShopEngine,
    programs: Any,
    settings: Configuration | None = None,
    text: str = ASKED,
    events: list[Event] | None = None,
) -> Answer:
    ports = Ports(chat, programs, engine, emit=events.append if events is not None else lambda _: None)
    question = Question("q1", "shop", text)
    return asyncio.run(answer(question, Knowledge(SHOP), settings or Configuration(), ports))


def test_early_exit_asks_five_times_and_verifies(engine: ShopEngine) -> None:
    chat = by_role(programmer=python(program()), sql_writer=sql(GOOD))
    events: list[Event] = []
    given = ask(chat, engine, ScriptedPrograms({"solve": NAMES}), events=events)
    assert (given.verdict, given.sql, given.confidence) == (Verdict.VERIFIED, GOOD, 1.0)
    assert chat.roles() == ["programmer", "programmer", "sql_writer", "sql_writer", "sql_writer"]
    assert "early_exit" in {event.stage for event in events}
    assert given.steps == ("1. load", "2. project")
    assert given.tables == ("customer",)
    assert given.budget.calls == len(given.calls) == 5


def test_the_fastest_match_wins_and_ties_go_to_the_shorter(engine: ShopEngine) -> None:
    slow = "SELECT name FROM customer WHERE 1 = 1"

    def writer(request: ChatRequest) -> str:
        return sql(GOOD if request.tag("strategy") == "efficient" else slow)

    chat = by_role(programmer=python(program()), sql_writer=writer)
    programs = ScriptedPrograms({"solve": NAMES})
    engine.times = {"1 = 1": 9.0, "": 1.0}
    assert ask(chat, engine, programs).sql == GOOD
    engine.times = {"1 = 1": 1.0, "": 9.0}
    assert ask(chat, engine, programs).sql == slow
    engine.times = {"1 = 1": 1.0, "": 1.05}
    assert ask(chat, engine, programs).sql == GOOD
    first = Configuration().with_changes(selection=Selection.FIRST)
    assert ask(chat, engine, programs, first).sql == slow


def test_where_nothing_can_be_timed_the_plans_cost_decides(engine: ShopEngine) -> None:
    slow = "SELECT name FROM customer WHERE 1 = 1"

    def writer(request: ChatRequest) -> str:
        return sql(GOOD if request.tag("strategy") == "efficient" else slow)

    chat = by_role(programmer=python(program()), sql_writer=writer)
    programs = ScriptedPrograms({"solve": NAMES})
    engine.costs = {"1 = 1": 900.0, "": 100.0}
    answer = ask(chat, engine, programs)
    assert (answer.sql, {item.plan_cost for item in answer.candidates}) == (GOOD, {900.0, 100.0})
    engine.costs = {"1 = 1": 100.0, "": 900.0}
    assert ask(chat, engine, programs).sql == slow


def test_disagreement_samples_more_and_votes(engine: ShopEngine) -> None:
    def programmer(request: ChatRequest) -> str:
        odd = request.tag("style") == "code" and request.tag("sample") == "0"
        return python(program(marker="odd" if odd else "even"))

    chat = by_role(programmer=programmer, sql_writer=sql(GOOD))
    given = ask(chat, engine, ScriptedPrograms({"odd": COUNTRIES, "even": NAMES}))
    assert (given.verdict, given.support) == (Verdict.VERIFIED, 0.75)
    assert chat.roles().count("programmer") == 4


def test_a_wrong_statement_is_repaired_against_the_plan(engine: ShopEngine) -> None:
    def writer(request: ChatRequest) -> str:
        follows = request.tag("strategy") == "follow_code"
        return sql("SELECT country FROM customer" if follows else "SELECT id FROM customer")

    chat = by_role(
        programmer=python(program()), sql_writer=writer, sql_fixer="It departs from step 2.\n" + sql(GOOD)
    )
    given = ask(chat, engine, ScriptedPrograms({"solve": NAMES}), Configuration.for_profile(Profile.FAST))
    # Shown the plan's result it agrees, which is no evidence for that result.
    assert (given.verdict, given.sql) == (Verdict.MAJORITY, GOOD)
    mended = next(item for item in given.candidates if item.repairs)
    assert (mended.id, mended.repairs[0].reason, mended.repairs[0].step) == ("sql-1-mended", Match.VALUES, 2)
    assert [item.id for item in given.candidates] == ["sql-1", "sql-2", "sql-1-mended"]


def test_a_repair_does_not_silence_the_sql_that_disagreed(engine: ShopEngine) -> None:
    """Program and mended SQL say one thing; two writers, before they were told, said another."""
    chat = by_role(
        programmer=python(program()), sql_writer=sql("SELECT country FROM customer"), sql_fixer=sql(GOOD)
    )
    settings = Configuration.for_profile(Profile.FAST, counter_check_share=NEVER)
    given = ask(chat, engine, ScriptedPrograms({"solve": NAMES}), settings)
    assert (given.verdict, given.sql) == (Verdict.MAJORITY, "SELECT country FROM customer")


def test_a_translation_of_the_program_is_no_independent_evidence(engine: ShopEngine) -> None:
    """Fast: one program, one SQL that follows it, one direct. Both are right only if direct agrees."""

    def writer(request: ChatRequest) -> str:
        follows = request.tag("strategy") == "follow_code"
        return sql("SELECT country FROM customer" if follows else GOOD)

    chat = by_role(programmer=python(program()), sql_writer=writer, sql_fixer=sql(GOOD))
    fast = Configuration.for_profile(Profile.FAST, mismatch_repairs=0)
    alone = ask(chat, engine, ScriptedPrograms({"solve": COUNTRIES}), fast)
    assert (alone.verdict, alone.sql) == (Verdict.MAJORITY, "SELECT country FROM customer")
    lenient = fast.with_changes(independent_evidence=False)
    assert ask(chat, engine, ScriptedPrograms({"solve": COUNTRIES}), lenient).verdict is Verdict.VERIFIED
    assert ask(chat, engine, ScriptedPrograms({"solve": NAMES}), fast).verdict is Verdict.VERIFIED


def test_an_invented_name_is_repaired_with_hints(engine: ShopEngine) -> None:
    def fixer(request: ChatRequest) -> str:
        assert "closest: name" in request.messages[-1].content
        return sql(GOOD)

    chat = by_role(programmer=python(program()), sql_writer=sql("SELECT nam FROM customer"), sql_fixer=fixer)
    given = ask(chat, engine, ScriptedPrograms({"solve": NAMES}), Configuration.for_profile(Profile.FAST))
    assert given.verdict is Verdict.VERIFIED
    assert all("nam " not in text for text in engine.ran)


def test_repair_stops_when_nothing_changes(engine: ShopEngine) -> None:
    broken = sql("SELECT nam FROM customer")
    chat = by_role(programmer=python(program()), sql_writer=broken, sql_fixer=broken)
    given = ask(chat, engine, ScriptedPrograms({"solve": NAMES}))
    assert given.verdict is Verdict.UNVERIFIED
    assert given.code == "sql_error"
    assert chat.roles().count("sql_fixer") <= 2


def _outvoted(fixed: str) -> ScriptedChat:
    return by_role(
        programmer=lambda request: python(program(marker=f"wrong {request.tag('style')}")),
        program_fixer=python(program(marker=fixed)),
        sql_writer=sql(GOOD),
        sql_fixer=sql(GOOD),
    )


def test_sql_that_outvotes_the_reference_replaces_it(engine: ShopEngine) -> None:
    programs = ScriptedPrograms({"wrong": COUNTRIES, "right": NAMES})
    two = Configuration().with_changes(samples_per_style=1)
    given = ask(_outvoted("right"), engine, programs, two)
    assert (given.verdict, given.sql) == (Verdict.VERIFIED, GOOD)
    assert "reference_replaced" in {notice.code for notice in given.warnings}
    # One of four programs comes round: it and the direct SQL do not outweigh the other three.
    given = ask(_outvoted("right"), engine, programs)
    assert (given.verdict, given.sql) == (Verdict.MAJORITY, GOOD)
    assert "reference_replaced" not in {notice.code for notice in given.warnings}


def test_a_stubborn_reference_leaves_a_majority(engine: ShopEngine) -> None:
    programs = ScriptedPrograms({"wrong": COUNTRIES})
    given = ask(_outvoted("wrong again"), engine, programs)
    assert (given.verdict, given.sql) == (Verdict.MAJORITY, GOOD)


def test_a_doubt_that_is_not_cleared_is_not_verified(engine: ShopEngine) -> None:
    """Two of three writers agree against two programs, which stand by their result."""

    def writer(request: ChatRequest) -> str:
        follows = request.tag("strategy") == "follow_code"
        return sql("SELECT country FROM customer" if request.tag("program") == "code-1" and follows else GOOD)

    chat = by_role(
        programmer=lambda request: python(program(marker=f"steady {request.tag('style')}")),
        program_fixer=python(program(marker="steady still")),
        sql_writer=writer,
        sql_fixer=sql("SELECT id FROM customer"),
    )
    programs = ScriptedPrograms({"steady": COUNTRIES})
    # The followers of code-1 alone gave the programs' rows; both programs outweigh the one direct reading.
    given = ask(chat, engine, programs)
    assert (given.verdict, given.sql) == (Verdict.MAJORITY, "SELECT country FROM customer")
    assert "reference_doubted" in {notice.code for notice in given.warnings}
    unasked = Configuration().with_changes(counter_check_share=NEVER)
    assert ask(chat, engine, programs, unasked).verdict is Verdict.VERIFIED


def test_without_the_reference_check_programs_guide_and_sql_votes(engine: ShopEngine) -> None:
    def writer(request: ChatRequest) -> str:
        alone = (request.tag("strategy"), request.tag("program")) == ("follow_comments", "code-1")
        return sql("SELECT country FROM customer" if alone else GOOD)

    chat = by_role(programmer=python(program()), sql_writer=writer)
    settings = Configuration().with_changes(reference_check=False, early_exit=False)
    given = ask(chat, engine, ScriptedPrograms({"solve": COUNTRIES}), settings)
    assert (given.verdict, given.sql) == (Verdict.MAJORITY, GOOD)


def test_direct_sql_decides_between_programs(engine: ShopEngine) -> None:
    def programmer(request: ChatRequest) -> str:
        return python(program(marker="first" if request.tag("style") == "code" else "second"))

    def writer(request: ChatRequest) -> str:
        return sql("SELECT country FROM customer" if request.tag("program").startswith("code") else GOOD)

    chat = by_role(programmer=programmer, sql_writer=writer)
    events: list[Event] = []
    programs = ScriptedPrograms({"first": COUNTRIES, "second": NAMES})
    once = Configuration().with_changes(samples_per_style=1, extra_rounds=0, mismatch_repairs=0)
    given = ask(chat, engine, programs, once, events=events)
    assert (given.verdict, given.sql) == (Verdict.VERIFIED, GOOD)
    chosen = [event.data["program"] for event in events if event.stage == "reference"]
    assert chosen == ["code-1", "comment-1"]


def test_order_counts_only_when_both_order(engine: ShopEngine) -> None:
    ordered = dataclasses.replace(table(("Cy",), ("Bo",), ("Ada",)), ordered=True)
    programs = ScriptedPrograms({"solve": ordered})
    fast = Configuration.for_profile(Profile.FAST, mismatch_repairs=0, counter_check_share=NEVER)
    ascending = by_role(
        programmer=python(program()), sql_writer=sql("SELECT name FROM customer ORDER BY name")
    )
    given = ask(ascending, engine, programs, fast)
    assert {item.match for item in given.candidates} == {Match.ORDER}
    assert given.verdict is Verdict.MAJORITY
    unordered = by_role(programmer=python(program()), sql_writer=sql(GOOD))
    assert ask(unordered, engine, programs, fast).verdict is Verdict.VERIFIED
    # Hidden key: both Italians tie, so their order is free; Norway's place is not.
    hidden = by_role(
        programmer=python(program()), sql_writer=sql("SELECT name FROM customer ORDER BY country")
    )
    swapped = dataclasses.replace(table(("Cy",), ("Ada",), ("Bo",)), ordered=True)
    assert ask(hidden, engine, ScriptedPrograms({"solve": swapped}), fast).verdict is Verdict.VERIFIED
    wrong = dataclasses.replace(table(("Bo",), ("Ada",), ("Cy",)), ordered=True)
    assert ask(hidden, engine, ScriptedPrograms({"solve": wrong}), fast).verdict is Verdict.MAJORITY


def test_ties_at_the_cut_are_accepted(engine: ShopEngine) -> None:
    kept = dataclasses.replace(table(("Cy",)), ties=(("Ada",), ("Cy",)))
    chat = by_role(
        programmer=python(program()),
        sql_writer=sql("SELECT name FROM customer WHERE country = 'Italy' ORDER BY country LIMIT 1"),
    )
    given = ask(chat, engine, ScriptedPrograms({"solve": kept}), Configuration.for_profile(Profile.FAST))
    assert given.verdict is Verdict.VERIFIED


class TestFailingPorts:
    def test_without_a_sandbox_nothing_runs_and_nothing_is_verified(self, engine: ShopEngine) -> None:
        class Absent:
            async def run(self, source: str, **_: object) -> None:
                raise SandboxUnavailableError("no seccomp")

        chat = by_role(programmer=python(program()), sql_writer=sql(GOOD))
        for programs in (None, Absent()):
            given = ask(chat, engine, programs)
            assert given.verdict is Verdict.MAJORITY
            assert {item.status for item in given.programs} == {ProgramStatus.DRY}
            assert "sandbox_unavailable" in {notice.code for notice in given.warnings}

    def test_a_model_out_of_reach(self, engine: ShopEngine) -> None:
        class Silent:
            async def complete(self, request: ChatRequest) -> None:
                raise ModelUnavailableError("connection refused")

        given = ask(Silent(), engine, ScriptedPrograms({"solve": NAMES}))
        assert (given.verdict, given.code) == (Verdict.UNVERIFIED, "llm_unavailable")

    def test_prose_costs_one_retry_with_the_format_error_only(self, engine: ShopEngine) -> None:
        seen: list[str] = []

        def writer(request: ChatRequest) -> str:
            seen.append(request.messages[-1].content)
            return sql(GOOD) if request.tag("retry") else "I would list the names."

        chat = by_role(programmer=python(program()), sql_writer=writer)
        given = ask(
            chat, engine, ScriptedPrograms({"solve": NAMES}), Configuration.for_profile(Profile.DIRECT)
        )
        assert given.sql == GOOD
        assert seen[1] == "answer with one ```sql block that holds one SELECT statement"

    def test_programs_that_fail_leave_sql_only(self, engine: ShopEngine) -> None:
        chat = by_role(programmer=python(program()), sql_writer=sql(GOOD), program_fixer=python(program()))
        given = ask(chat, engine, ScriptedPrograms({"solve": ProgramStatus.ERROR}))
        assert given.verdict in (Verdict.UNVERIFIED, Verdict.MAJORITY)
        assert given.sql == GOOD
        assert given.programs[0].error is not None
        assert given.programs[0].error.step == 1

    def test_a_program_that_breaks_is_mended_once_and_told_where(self, engine: ShopEngine) -> None:
        seen: list[str] = []

        def fixer(request: ChatRequest) -> str:
            seen.append(request.messages[-1].content)
            return python(program(marker="mended"))

        chat = by_role(programmer=python(program()), program_fixer=fixer, sql_writer=sql(GOOD))
        programs = ScriptedPrograms({"mended": NAMES, "solve": ProgramStatus.ERROR})
        fast = Configuration.for_profile(Profile.FAST)
        given = ask(chat, engine, programs, fast)
        assert (given.verdict, given.programs[0].repairs) == (Verdict.VERIFIED, 1)
        assert "step 1, line 3: Error: it broke" in seen[0]
        assert len(seen) == 1
        unmended = ask(chat, engine, programs, fast.with_changes(program_repairs=0))
        assert (unmended.verdict, len(seen)) == (Verdict.UNVERIFIED, 1)

    @pytest.mark.parametrize("status", [ProgramStatus.DENIED, ProgramStatus.TOO_BIG])
    def test_what_was_denied_is_not_tried_again(self, engine: ShopEngine, status: ProgramStatus) -> None:
        chat = by_role(programmer=python(program()), sql_writer=sql(GOOD))
        given = ask(
            chat, engine, ScriptedPrograms({"solve": status}), Configuration.for_profile(Profile.FAST)
        )
        assert given.programs[0].status is status
        assert "program_fixer" not in chat.roles()

    def test_a_program_outside_the_contract_is_mended_once(self, engine: ShopEngine) -> None:
        chat = by_role(
            programmer=python("def solve(db):\n    return open('x')"),
            program_fixer=python(program()),
            sql_writer=sql(GOOD),
        )
        programs = ScriptedPrograms({"solve": NAMES})
        given = ask(chat, engine, programs, Configuration.for_profile(Profile.FAST))
        assert given.verdict is Verdict.VERIFIED
        assert given.programs[0].repairs == 1
        assert all("open" not in source for source in programs.ran)

    def test_the_gate_has_the_last_word(self, engine: ShopEngine) -> None:
        drop = sql("DROP TABLE customer")
        chat = by_role(programmer=python(program()), sql_writer=drop, sql_fixer=drop)
        given = ask(chat, engine, ScriptedPrograms({"solve": NAMES}), Configuration.for_profile(Profile.FAST))
        assert given.result is None
        assert given.code == "sql_rejected"
        assert engine.ran == []


class TestBudgets:
    @pytest.mark.parametrize("sql_calls", [1, 2, 4])
    def test_exhaustion_returns_the_best_so_far(self, engine: ShopEngine, sql_calls: int) -> None:
        calls = {Share.PROGRAMS: 2, Share.SQL: sql_calls, Share.REPAIRS: 0}
        chat = by_role(programmer=python(program()), sql_writer=sql(GOOD))
        settings = Configuration().with_changes(budget=Budget(calls=calls), early_exit=False)
        given = ask(chat, engine, ScriptedPrograms({"solve": NAMES}), settings)
        assert given.verdict is Verdict.VERIFIED
        assert chat.roles().count("sql_writer") == sql_calls
        assert given.budget.calls <= 2 + sql_calls

    def test_nothing_at_all(self, engine: ShopEngine) -> None:
        chat = by_role()
        given = ask(chat, engine, None, Configuration().with_changes(budget=Budget(calls={})))
        assert (given.verdict, given.code) == (Verdict.UNVERIFIED, "budget_exhausted")
        assert chat.requests == []


class TestRefusals:
    def test_out_of_domain_costs_nothing(self, engine: ShopEngine) -> None:
        chat = by_role()
        given = ask(chat, engine, None, text="Who painted Guernica?")
        assert (given.verdict, given.code, chat.requests) == (Verdict.REFUSED, "unanswerable", [])

    def test_the_model_may_ask_back(self, engine: ShopEngine) -> None:
        reply = '{"answerability": "ambiguous", "reason": "two", "choices": ["a", "b", "c", "d"]}'
        settings = Configuration(answerability="both")  # type: ignore[arg-type]
        given = ask(by_role(refuser=reply), engine, None, settings)
        assert (given.code, given.clarifications) == ("ambiguous", ("a", "b", "c"))


def test_replies_and_times_make_the_answer(engine: ShopEngine) -> None:
    """The same answer twice from recorded replies, whatever the engine's mood."""
    chat = RecordingChat(by_role(programmer=python(program()), sql_writer=sql(GOOD)))
    programs = ScriptedPrograms({"solve": NAMES})
    timed = RecordedTimes(engine)
    first = ask(chat, timed, programs)  # type: ignore[arg-type]
    recording = Recording(map(_loads, chat.recording.lines()))
    again = ask(ReplayingChat(recording), RecordedTimes(engine, timed.times), programs)  # type: ignore[arg-type]

    def comparable(given: Answer) -> Answer:
        return dataclasses.replace(
            given, timings_ms={}, budget=dataclasses.replace(given.budget, wall_seconds=0)
        )

    assert comparable(first) == comparable(again)


def _loads(line: str) -> dict[str, Any]:
    import json

    loaded: dict[str, Any] = json.loads(line)
    return loaded


def test_any_role_may_use_another_model(engine: ShopEngine) -> None:
    chat = by_role(programmer=python(program()), sql_writer=sql(GOOD))
    settings = Configuration.for_profile(Profile.FAST, model="big", models={Role.SQL_WRITER: "coder"})
    ask(chat, engine, ScriptedPrograms({"solve": NAMES}), settings)
    assert {request.role: request.model for request in chat.requests} == {
        Role.PROGRAMMER: "big",
        Role.SQL_WRITER: "coder",
    }


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Show the names of customers", Verdict.VERIFIED),
        ("Names of customers and their number of orders", Verdict.MAJORITY),
    ],
)
def test_a_held_model_is_verified_where_no_reading_disagrees(
    engine: ShopEngine, text: str, verdict: Verdict
) -> None:
    """One program a style, SQL in one form, no repair of a mismatch; where styles part the words decide."""

    def writer(request: ChatRequest) -> str:
        return sql({"comment-1": "SELECT country FROM customer"}.get(request.tag("program"), GOOD))

    chat = by_role(programmer=lambda request: python(program(marker=request.tag("style"))), sql_writer=writer)
    programs = ScriptedPrograms({"code": NAMES, "comment": COUNTRIES})
    small = Configuration(model_profiles={"default": ModelProfile.small()})
    given = ask(chat, engine, programs, small, text=text)
    assert (given.sql, given.verdict) == (GOOD, verdict)
    asked = [request.tag("style") for request in chat.requests if request.role is Role.PROGRAMMER]
    assert sorted(asked) == ["code", "comment"]
    strategies = [request.tag("strategy") for request in chat.requests if request.role is Role.SQL_WRITER]
    assert sorted(strategies) == ["direct", "follow_code", "follow_code"]
    assert "sql_fixer" not in chat.roles()
