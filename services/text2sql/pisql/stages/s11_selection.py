"""S11: among matching candidates the fastest; without one, the result most writers agree on.

A verified choice is timed: an unmeasured warm-up, interleaved rounds in rotating order, the minimum
as score. Differences below 10 % or 0.2 ms are ties, which fall to fewer tree nodes, then to the
`efficient` strategy, then to the lower id.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from services.text2sql.pisql.configuration import Role, Selection, TimingSettings
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import SqlFailedError, SqlRejectedError
from services.text2sql.pisql.evidence import is_confirmed, is_outvoted, result_groups
from services.text2sql.pisql.objects import (
    Match,
    PivotProgram,
    ProgramStatus,
    Reference,
    SqlCandidate,
    Strategy,
    Verdict,
)


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen candidate, its verdict and the share of candidates behind it."""

    candidate: SqlCandidate | None
    verdict: Verdict
    ratio: float = 0.0


def _votes(candidates: Sequence[SqlCandidate]) -> int:
    return sum(candidate.votes for candidate in candidates)


async def time_candidates(candidates: Sequence[SqlCandidate], context: StageContext) -> list[SqlCandidate]:
    """Candidates with their least time, or with the engine's plan cost where timing is refused."""
    if len(candidates) < 2:
        return list(candidates)
    settings = context.configuration
    try:
        times = await context.ports.engine.time(
            [candidate.sql for candidate in candidates],
            settings=settings.timing,
            limits=settings.limits,
        )
    except (SqlFailedError, SqlRejectedError) as error:
        context.notice("timing_failed", f"candidates could not be timed: {error}")
        return await _costed(candidates, context)
    return [
        dataclasses.replace(candidate, best_ms=best)
        for candidate, best in zip(candidates, times, strict=True)
    ]


async def _costed(candidates: Sequence[SqlCandidate], context: StageContext) -> list[SqlCandidate]:
    """Candidates with the planner's cost, where the engine has one."""
    costed = []
    for candidate in candidates:
        try:
            cost = await context.ports.engine.cost(candidate.sql)
        except (SqlFailedError, SqlRejectedError):
            cost = None
        costed.append(dataclasses.replace(candidate, plan_cost=cost))
    return costed


def fastest(candidates: Sequence[SqlCandidate], settings: TimingSettings) -> SqlCandidate:
    """The candidate to return; all of those within the tie band of the least time compete by form.

    Where nothing was timed the plan costs decide in its place.
    """
    timed = [candidate for candidate in candidates if candidate.best_ms is not None]
    pool = list(timed) or list(candidates)
    if timed:
        least = min(candidate.best_ms for candidate in timed if candidate.best_ms is not None)
        band = max(least * (1 + settings.tie_share), least + settings.tie_milliseconds)
        pool = [item for item in timed if item.best_ms is not None and item.best_ms <= band]
    elif costs := [item.plan_cost for item in candidates if item.plan_cost is not None]:
        most = min(costs) * (1 + settings.tie_share)
        pool = [item for item in candidates if item.plan_cost is not None and item.plan_cost <= most]
    return min(
        pool,
        key=lambda item: (
            item.node_count,
            item.strategy is not Strategy.EFFICIENT,
            len(item.id),
            item.id,
        ),
    )


async def select(
    candidates: Sequence[SqlCandidate],
    reference: Reference | None,
    programs: Sequence[PivotProgram],
    context: StageContext,
    *,
    doubted: bool = False,
    contested: bool | None = None,
) -> tuple[Choice, list[SqlCandidate]]:
    """The choice, and all candidates with what timing found out.

    A match is `verified` only when the reference was really executed and is not `doubted`; an outvoted
    reference leaves the outvoting SQL group as `majority`. `contested` tells of a model held to a
    grammar whether any reading left open gives other rows; it is None of other models.
    """
    executed = [candidate for candidate in candidates if candidate.result is not None]
    if not context.configuration.reference_check:
        # Without it programs guide, and what they gave says nothing.
        reference, programs = None, ()
    held = context.configuration.is_held(Role.SQL_WRITER)
    outvoted = reference is not None and not held and is_outvoted(executed, reference, programs)
    if outvoted:
        executed = [candidate for candidate in executed if not candidate.shown]
    matching = [candidate for candidate in executed if candidate.match is Match.MATCH]
    if matching and reference is not None and not outvoted:
        timed = await _timed(matching, context)
        chosen = _pick(timed, context)
        checked = reference.program.status in (ProgramStatus.OK, ProgramStatus.EMPTY)
        sound = checked and not doubted and _is_confirmed(executed, reference, programs, context, contested)
        verdict = Verdict.VERIFIED if sound else Verdict.MAJORITY
        return Choice(chosen, verdict, _votes(matching) / _votes(executed)), _merge(candidates, timed)
    if executed:
        group = result_groups(executed, programs, held=held)[0].candidates
        timed = await _timed(group, context)
        ratio = _votes(group) / _votes(executed)
        alone = _votes(group) < 2
        verdict = Verdict.UNVERIFIED if alone else Verdict.MAJORITY
        return Choice(_pick(timed, context), verdict, ratio), _merge(candidates, timed)
    written = [candidate for candidate in candidates if candidate.sql]
    best = min(written, key=lambda item: (len(item.repairs), item.id), default=None)
    return Choice(best, Verdict.UNVERIFIED), list(candidates)


def _is_confirmed(
    executed: Sequence[SqlCandidate],
    reference: Reference,
    programs: Sequence[PivotProgram],
    context: StageContext,
    contested: bool | None,
) -> bool:
    """Whether more than a program and its own translation stand behind the reference's result."""
    settings = context.configuration
    if not settings.independent_evidence:
        return True
    if contested is not None:
        return not contested
    return is_confirmed(executed, reference, programs, settings.verified_share)


async def _timed(candidates: Sequence[SqlCandidate], context: StageContext) -> list[SqlCandidate]:
    if context.configuration.selection is Selection.FIRST:
        return list(candidates)
    return await time_candidates(candidates, context)


def _pick(candidates: Sequence[SqlCandidate], context: StageContext) -> SqlCandidate:
    if context.configuration.selection is Selection.FIRST:
        return candidates[0]
    return fastest(candidates, context.configuration.timing)


def _merge(candidates: Sequence[SqlCandidate], timed: Sequence[SqlCandidate]) -> list[SqlCandidate]:
    by_id = {candidate.id: candidate for candidate in timed}
    return [by_id.get(candidate.id, candidate) for candidate in candidates]
