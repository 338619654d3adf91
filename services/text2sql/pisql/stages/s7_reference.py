"""S7: which program's result must the SQL give?

Runnable programs are grouped by equal result. Errors never vote, an empty result votes with half the
weight; ties fall to the group that holds both styles, then to fewer repairs, then to a result with
rows, then to the lower temperature. The shortest member speaks for its group. SQL that follows no program
is a reading of the question like a program's: once it is there, its result votes among the groups.
"""

from __future__ import annotations

from collections.abc import Sequence

from services.text2sql.pisql import evidence
from services.text2sql.pisql.objects import (
    PivotProgram,
    ProgramStatus,
    Reference,
    ResultTable,
)
from services.text2sql.pisql.results import grouped


def weight(program: PivotProgram) -> float:
    """How much a program's vote counts."""
    if not program.runnable or program.result is None:
        return 0.0
    return evidence.row_weight(program.result)


def group_programs(programs: Sequence[PivotProgram]) -> list[list[PivotProgram]]:
    """Runnable programs by equal result, in order of first appearance."""
    return grouped(programs, lambda program: program.result if program.runnable else None)


def _rank(
    group: Sequence[PivotProgram], readings: Sequence[ResultTable]
) -> tuple[float, int, float, int, float, str]:
    """Sort key of a group; the least is the best."""
    result = group[0].result
    assert result is not None
    return (
        -sum(map(weight, group)) - evidence.weight(evidence.agreeing(result, readings)),
        -len({program.style for program in group}),
        min(program.repairs for program in group),
        int(all(program.status is ProgramStatus.EMPTY for program in group)),
        min(program.temperature for program in group),
        min(program.id for program in group),
    )


def ranked_groups(
    programs: Sequence[PivotProgram], readings: Sequence[ResultTable] = ()
) -> list[list[PivotProgram]]:
    """Groups by equal result, best first; `readings` are results of SQL that follows no program."""
    return sorted(group_programs(programs), key=lambda group: _rank(group, readings))


def representative(group: Sequence[PivotProgram]) -> PivotProgram:
    """The member with the shortest source."""
    return min(group, key=lambda program: (len(program.source), program.id))


def choose(programs: Sequence[PivotProgram], readings: Sequence[ResultTable] = ()) -> Reference | None:
    """The reference, or None when no program ran. Its support is its share of the programs' weight."""
    groups = ranked_groups(programs, readings)
    if not groups:
        return None
    best = groups[0]
    total = sum(weight(program) for group in groups for program in group)
    chosen = representative(best)
    result = chosen.result
    assert result is not None
    return Reference(
        program=chosen,
        result=_with_ties(result, best),
        support=sum(map(weight, best)) / total if total else 0.0,
        members=tuple(program.id for program in best),
    )


def _with_ties(result: ResultTable, group: Sequence[PivotProgram]) -> ResultTable:
    """The result with the ties any member of its group reported."""
    if result.ties:
        return result
    ties = next((m.result.ties for m in group if m.result and m.result.ties), ())
    return ResultTable(result.columns, result.rows, result.row_count, result.ordered, result.digest, ties)
