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
    assert evidence.weight(result, candidates, PROGRAMS, held=False) == expected


def test_groups_by_weight_then_writers_then_id() -> None:
    candidates = [
        gave("a", table((7,)), "p"),
        gave("b", TWO, "r"),
        gave("c", ONE, "p"),
        gave("d", table((8,)), "p", "q"),
        gave("e", None, "p"),
    ]
    groups = evidence.result_groups(candidates, PROGRAMS, held=False)
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


def test_a_held_model_speaks_for_itself_in_every_statement() -> None:
    candidates = [gave("1", ONE, "r"), gave("2", TWO, "p"), gave("3", TWO)]
    assert evidence.weight(ONE, candidates[:1], PROGRAMS, held=True) == 3
    assert evidence.weight(TWO, candidates[1:], PROGRAMS, held=True) == 3
