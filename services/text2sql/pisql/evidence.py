"""Who stands behind a result: the accounting that S7, S10 and S11 share.

A question is read once by every program and once by every SQL writer that followed none; these readings
may outvote one another. A program that ran stands for what its run gave: SQL that renders it otherwise has
slipped or knows better, and cannot say which, so it is a reason to look again (S10) and no vote. Of a
program that did not run the SQL speaks. SQL written after a repair showed it the reference's result says
nothing. A result without rows counts half (S7).

A model held to a grammar translates nothing: each of its statements is a choice among the readings of the
question, and speaks for itself whatever program it was shown. But its first program keeps to what the words
say, and its other choices, which one small model makes alike, do not outvote that.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.text2sql.pisql.objects import Match, PivotProgram, Reference, ResultTable, SqlCandidate
from services.text2sql.pisql.results import grouped, results_equal, valid_cut

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


def writers(candidate: SqlCandidate) -> tuple[str, ...]:
    """The program each writer of a statement followed, `` for none."""
    return (candidate.program_id, *candidate.also_from)


def backers(candidates: Iterable[SqlCandidate]) -> set[str]:
    """Programs (and `` for writers without one) whose SQL these are, untold by a repair."""
    return {name for item in candidates if not item.shown for name in writers(item)}


def direct_results(candidates: Iterable[SqlCandidate]) -> list[ResultTable]:
    """What SQL that follows no program gave, once each writer."""
    return [
        item.result
        for item in candidates
        if item.result is not None and not item.shown
        for name in writers(item)
        if not name
    ]


def readings(
    candidates: Iterable[SqlCandidate], programs: Sequence[PivotProgram], *, held: bool = False
) -> list[ResultTable]:
    """What every reading of the question gave; `held` tells of a model held to a grammar."""
    found = [item.result for item in programs if item.runnable and item.result is not None]
    heard = {item.id for item in programs if item.runnable and not held}
    for candidate in candidates:
        if candidate.result is None or candidate.shown:
            continue
        for name in writers(candidate):
            if name not in heard:
                found.append(candidate.result)
            if name and not held:
                heard.add(name)
    return found


def row_weight(result: ResultTable) -> float:
    """How much one reading that gives the result counts."""
    return 1.0 if result.row_count else EMPTY_WEIGHT


def agreeing(result: ResultTable, found: Iterable[ResultTable]) -> list[ResultTable]:
    """The results that equal `result`, or cut its ties otherwise."""
    return [other for other in found if results_equal(result, other) or valid_cut(result, other.rows)]


def weight(found: Iterable[ResultTable]) -> float:
    """The weight of some readings together."""
    return sum(map(row_weight, found))


def result_groups(
    candidates: Iterable[SqlCandidate], programs: Sequence[PivotProgram], *, held: bool = False
) -> list[ResultGroup]:
    """Executed candidates by equal result: most weight first, then most writers, then the lowest id."""
    candidates = list(candidates)
    read = readings(candidates, programs, held=held)
    weighed = [
        ResultGroup(tuple(group), weight(agreeing(group[0].result, read)))
        for group in grouped(candidates, lambda item: item.result)
        if group[0].result is not None
    ]
    return sorted(weighed, key=lambda group: (-group.weight, -group.votes, group.candidates[0].id))


def is_outvoted(
    candidates: Sequence[SqlCandidate], reference: Reference, programs: Sequence[PivotProgram]
) -> bool:
    """Whether readings of more weight than the reference's stand behind another result.

    At equal weight SQL of several writers outvotes a reference that no more writers agree with. Not to be
    asked of a held model, whose free choices must not outvote the words.
    """
    untold = [item for item in candidates if not item.shown]
    matching = [item for item in untold if item.match is Match.MATCH]
    behind = agreeing(reference.result, readings(untold, programs))
    own = (weight(behind), max(1, len(backers(matching))))
    return any(
        (group.weight, len(backers(group.candidates))) > own
        for group in result_groups(untold, programs)
        if not any(item.match is Match.MATCH for item in group.candidates)
    )


def is_confirmed(
    candidates: Sequence[SqlCandidate],
    reference: Reference,
    programs: Sequence[PivotProgram],
    share: float,
) -> bool:
    """Whether two readings at least, and `share` of the weight of all, gave the reference's result."""
    found = readings(candidates, programs)
    behind = agreeing(reference.result, found)
    return len(behind) >= 2 and weight(behind) >= share * weight(found)
