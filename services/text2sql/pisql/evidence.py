"""Who stands behind a result: the accounting that S7, S10 and S11 share.

A question is read once by every program and once by every SQL writer that followed none; these are the
readings that may outvote one another. A program that ran stands for what its run gave: SQL that renders it
otherwise has slipped or knows better, and cannot say which, so it is a reason to look again (S10) and no
vote. Of a program that did not run the SQL speaks. A result without rows counts half (S7).

A model held to a grammar translates nothing: each of its statements is a choice among the readings of the
question, and speaks for itself whatever program it was shown. But its first program keeps to what the words
say, and its other choices, which one small model makes alike, do not outvote that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.text2sql.pisql.objects import Match, PivotProgram, Reference, ResultTable, SqlCandidate
from services.text2sql.pisql.results import results_equal

EMPTY_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class ResultGroup:
    """Executed candidates with one result, and the weight of the readings that gave it."""

    candidates: tuple[SqlCandidate, ...]
    weight: float

    @property
    def votes(self) -> int:
        """How many writers gave statements of the group."""
        return sum(candidate.votes for candidate in self.candidates)


def row_weight(result: ResultTable) -> float:
    """How much one reading that gives the result counts."""
    return 1.0 if result.row_count else EMPTY_WEIGHT


def _writers(candidates: Iterable[SqlCandidate]) -> list[str]:
    """The program each writer followed, `` for none; only of writers untold of the reference by a repair."""
    return [name for item in candidates if not item.shown for name in (item.program_id, *item.also_from)]


def backers(candidates: Iterable[SqlCandidate]) -> set[str]:
    """Programs (and `` for writers without one) whose SQL these are, untold by a repair."""
    return set(_writers(candidates))


def direct_results(candidates: Iterable[SqlCandidate]) -> list[ResultTable]:
    """What SQL that follows no program gave, once each writer."""
    return [
        item.result for item in candidates if item.result is not None for name in _writers([item]) if not name
    ]


def weight(
    result: ResultTable, candidates: Iterable[SqlCandidate], programs: Sequence[PivotProgram], *, held: bool
) -> float:
    """The weight of the result of `candidates`: programs that gave it, and SQL that no run contradicts."""
    ran = {program.id for program in programs if program.runnable and not held}
    agreeing = sum(
        program.runnable and program.result is not None and results_equal(program.result, result)
        for program in programs
    )
    writers = _writers(candidates)
    followers = {name for name in writers if name and name not in ran}
    return row_weight(result) * (agreeing + len(followers) + writers.count(""))


def result_groups(
    candidates: Iterable[SqlCandidate], programs: Sequence[PivotProgram], *, held: bool
) -> list[ResultGroup]:
    """Executed candidates by equal result: most weight first, then most writers, then the lowest id."""
    found: list[list[SqlCandidate]] = []
    for candidate in candidates:
        if candidate.result is None:
            continue
        for group in found:
            other = group[0].result
            if other is not None and results_equal(other, candidate.result):
                group.append(candidate)
                break
        else:
            found.append([candidate])
    groups = [
        ResultGroup(tuple(group), weight(group[0].result, group, programs, held=held))
        for group in found
        if group[0].result is not None
    ]
    return sorted(groups, key=lambda group: (-group.weight, -group.votes, group.candidates[0].id))


def is_outvoted(
    candidates: Sequence[SqlCandidate],
    reference: Reference,
    programs: Sequence[PivotProgram],
) -> bool:
    """Whether readings of more weight than the reference's stand behind another result.

    At equal weight SQL of several writers outvotes a reference that no more writers agree with. Not to be
    asked of a held model, whose free choices must not outvote the words.
    """
    untold = [item for item in candidates if not item.shown]
    matching = [item for item in untold if item.match is Match.MATCH]
    own = (weight(reference.result, matching, programs, held=False), max(1, len(backers(matching))))
    return any(
        (group.weight, len(backers(group.candidates))) > own
        for group in result_groups(untold, programs, held=False)
        if not any(item.match is Match.MATCH for item in group.candidates)
    )
