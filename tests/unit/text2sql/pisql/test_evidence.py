"""Who stands behind a result: readings count once, translations that contradict their program do not."""

from __future__ import annotations

import dataclasses

import pytest

from services.text2sql.pisql import evidence
from services.text2sql.pisql.objects import (
    Match,
    PivotProgram,
    ProgramStatus,
    ProgramStyle,
    Reference,
    Repair,
    ResultTable,
    SqlCandidate,
    Strategy,
)
from tests.unit.text2sql.pisql.doubles import table

ONE, TWO, NONE = table((1,)), table((2,)), table()


def ran(name: str, result: ResultTable | None) -> PivotProgram:
    status = ProgramStatus.ERROR if result is None else ProgramStatus.OK
    return PivotProgram(name, ProgramStyle.CODE, "", (), 0, status=status, result=result)


def gave(name: str, result: ResultTable | None, program: str = "", *also: str) -> SqlCandidate:
    return SqlCandidate(name, Strategy.FOLLOW_CODE, "", "SELECT 1", program, also, result=result)


def told(candidate: SqlCandidate) -> SqlCandidate:
    return dataclasses.replace(candidate, repairs=(Repair(Match.VALUES, "", "a", "b"),))


PROGRAMS = [ran("p", ONE), ran("q", ONE), ran("r", TWO), ran("broken", None)]


@pytest.mark.parametrize(
    ("result", "candidates", "expected"),
    [
        (ONE, [], 2),
        (ONE, [gave("1", ONE, "p")], 2),
        (ONE, [gave("1", ONE, "p"), gave("2", ONE)], 3),
        (ONE, [gave("1", ONE, "", "", "")], 5),
        (ONE, [gave("1", ONE, "broken", "broken"), gave("2", ONE, "broken")], 3),
        # r ran and gave another result; what was written after it has slipped, or knows better.
        (ONE, [gave("1", ONE, "r")], 2),
        (TWO, [gave("1", TWO, "p", "q")], 1),
        # Of a program that did not run its SQL is all there is.
        (TWO, [gave("1", TWO, "broken")], 2),
        (ONE, [told(gave("1", ONE, "broken"))], 2),
        (NONE, [gave("1", NONE)], 0.5),
    ],
)
def test_weight(result: ResultTable, candidates: list[SqlCandidate], expected: float) -> None:
    found = evidence.readings(candidates, PROGRAMS)
    assert evidence.weight(evidence.agreeing(result, found)) == expected


def test_groups_by_weight_then_writers_then_id() -> None:
    candidates = [
        gave("a", table((7,)), "p"),
        gave("b", TWO, "r"),
        gave("c", ONE, "p"),
        gave("d", table((8,)), "p", "q"),
        gave("e", None, "p"),
    ]
    groups = evidence.result_groups(candidates, PROGRAMS)
    assert [(group.candidates[0].id, group.weight, group.votes) for group in groups] == [
        ("c", 2, 1),
        ("b", 1, 1),
        ("d", 0, 2),
        ("a", 0, 1),
    ]


def reference(name: str, result: ResultTable) -> Reference:
    return Reference(ran(name, result), result, 1.0, (name,))


def matching(candidate: SqlCandidate) -> SqlCandidate:
    return dataclasses.replace(candidate, match=Match.MATCH)


@pytest.mark.parametrize(
    ("programs", "candidates", "outvoted"),
    [
        # One program against one direct reading: the program is the reference.
        ([ran("p", ONE)], [gave("1", TWO)], False),
        # Two direct readings outvote it, and so do one and the program's own SQL where none agrees with it.
        ([ran("p", ONE)], [gave("1", TWO, "", "")], True),
        ([ran("p", ONE)], [gave("1", TWO), gave("2", TWO, "p")], True),
        ([ran("p", ONE)], [matching(gave("1", ONE, "p")), gave("2", TWO)], False),
        ([ran("p", ONE), ran("q", ONE)], [gave("1", TWO), gave("2", TWO, "p", "q")], False),
        ([ran("p", ONE), ran("x", None)], [gave("1", TWO), gave("2", TWO, "x")], True),
        ([ran("p", NONE)], [gave("1", TWO)], True),
        # What a repair was shown is no evidence, for either side.
        ([ran("p", ONE)], [told(matching(gave("1", ONE))), gave("2", TWO, "", "")], True),
        ([ran("p", ONE)], [told(gave("1", TWO, "", ""))], False),
    ],
)
def test_what_outvotes_a_reference(
    programs: list[PivotProgram], candidates: list[SqlCandidate], outvoted: bool
) -> None:
    first = programs[0]
    assert first.result is not None
    assert evidence.is_outvoted(candidates, reference(first.id, first.result), programs) is outvoted


@pytest.mark.parametrize(
    ("programs", "candidates", "confirmed"),
    [
        # Alone, or with its own translation only, a program confirms nothing.
        ([ran("p", ONE)], [], False),
        ([ran("p", ONE)], [gave("1", ONE, "p")], False),
        ([ran("p", ONE)], [gave("1", ONE)], True),
        ([ran("p", ONE)], [told(gave("1", ONE))], False),
        ([ran("p", ONE)], [gave("1", ONE, "x")], True),
        ([ran("p", ONE), ran("q", ONE)], [], True),
        ([ran("p", ONE), ran("q", ONE)], [gave("1", TWO)], True),
        # Another program's SQL says what its own run does not.
        ([ran("p", ONE), ran("r", TWO)], [gave("1", ONE, "r")], False),
        ([ran("p", ONE), ran("q", ONE), ran("r", TWO)], [gave("1", TWO)], False),
        ([ran("p", ONE), ran("q", ONE), ran("r", TWO)], [gave("1", ONE)], True),
        ([ran("p", NONE), ran("q", NONE), ran("r", TWO)], [], False),
    ],
)
def test_two_thirds_of_the_readings_confirm(
    programs: list[PivotProgram], candidates: list[SqlCandidate], confirmed: bool
) -> None:
    first = programs[0]
    assert first.result is not None
    found = evidence.is_confirmed(candidates, reference(first.id, first.result), programs, 2 / 3)
    assert found is confirmed


def test_other_cuts_of_a_tie_agree() -> None:
    tied = dataclasses.replace(ONE, ties=((1,), (2,)))
    assert evidence.agreeing(tied, [ONE, TWO, table((3,))]) == [ONE, TWO]
    assert evidence.agreeing(ONE, [ONE, TWO]) == [ONE]


def test_a_held_model_speaks_for_itself_in_every_statement() -> None:
    candidates = [gave("1", ONE, "r"), gave("2", TWO, "p"), gave("3", TWO)]
    found = evidence.readings(candidates, PROGRAMS, held=True)
    assert [evidence.weight(evidence.agreeing(result, found)) for result in (ONE, TWO)] == [3, 3]
