"""S10: mend statements that fail or disagree, and doubt the reference when independent SQL does.

A failing statement gets at most two tries, a disagreeing one a single try and four a question. It
stops when the same error text or the same normal form comes back, or the budget ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from services.text2sql.pisql import parsing, prompts, schema_text, sql_text
from services.text2sql.pisql.configuration import Role, Share
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import ErrorCode
from services.text2sql.pisql.grammar import sql_grammar
from services.text2sql.pisql.objects import (
    Match,
    PivotProgram,
    ProgramStatus,
    Reference,
    Repair,
    ResultTable,
    SqlCandidate,
)
from services.text2sql.pisql.program_text import read_steps
from services.text2sql.pisql.results import results_equal
from services.text2sql.pisql.stages import s5_programs, s6_running
from services.text2sql.pisql.stages.s5_programs import Briefing
from services.text2sql.pisql.stages.s8_candidates import Assignment, read
from services.text2sql.pisql.stages.s9_checking import check, execute

_MISMATCHES = (Match.SHAPE, Match.ROWS, Match.ORDER, Match.VALUES)


def _replaced(candidate: SqlCandidate, raw: str, briefing: Briefing, step: int = 0) -> SqlCandidate | None:
    """The candidate with a mended statement; None when nothing changed."""
    fresh = read(raw, Assignment(candidate.strategy), 0, briefing.schema)
    same = (
        fresh.sql
        and candidate.sql
        and sql_text.normal_form(fresh.sql, briefing.schema)
        == sql_text.normal_form(candidate.sql, briefing.schema)
    )
    if same or fresh.raw_sql == candidate.raw_sql:
        return None
    repair = Repair(
        candidate.match, candidate.error, candidate.sql or candidate.raw_sql, fresh.sql or raw, step
    )
    return dataclasses.replace(
        fresh,
        id=candidate.id,
        program_id=candidate.program_id,
        also_from=candidate.also_from,
        repairs=(*candidate.repairs, repair),
    )


async def repair_error(
    candidate: SqlCandidate, briefing: Briefing, reference: Reference | None, context: StageContext
) -> SqlCandidate:
    """Mend a statement the gate, the catalogue or the engine refused."""
    profile = context.profile(Role.SQL_FIXER)
    schema = briefing.schema
    for attempt in range(context.configuration.error_repairs):
        if candidate.match is not Match.ERROR or not context.meter.calls_left(Share.REPAIRS):
            break
        unknown = sql_text.unknown_names(candidate.sql, schema) if candidate.sql else []
        raw = await context.ask(
            Share.REPAIRS,
            Role.SQL_FIXER,
            prompts.sql_error_fixer(candidate, unknown, briefing.question, schema, profile),
            parsing.sql_block,
            seed=attempt,
            grammar=sql_grammar(briefing.readings) if profile.grammar else None,
            tags={"kind": "error", "strategy": candidate.strategy.value, "program": candidate.program_id},
        )
        mended = _replaced(candidate, raw, briefing) if raw else None
        if mended is None:
            break
        before = candidate.error
        candidate = await check(await execute(mended, schema, context), reference, schema, context)
        if candidate.match is Match.ERROR and candidate.error == before:
            break
    return candidate


async def repair_mismatch(
    candidate: SqlCandidate, briefing: Briefing, reference: Reference, context: StageContext
) -> SqlCandidate | None:
    """A further statement that gives the reference's result, written after that was shown; else None.

    The old one stays a candidate: what its writer thought before it was told still counts.
    """
    profile = context.profile(Role.SQL_FIXER)
    schema = briefing.schema
    reply = await context.ask(
        Share.REPAIRS,
        Role.SQL_FIXER,
        prompts.sql_mismatch_fixer(
            candidate,
            reference.program,
            reference.result,
            briefing.question,
            schema,
            briefing.hits,
            profile,
        ),
        lambda text: (parsing.departing_step(text), parsing.sql_block(text)),
        tags={
            "kind": "mismatch",
            "strategy": candidate.strategy.value,
            "program": candidate.program_id,
            "reference": reference.program.id,
        },
    )
    if reply is None:
        return None
    step, raw = reply
    mended = _replaced(candidate, raw, briefing, step)
    if mended is None:
        return None
    mended = dataclasses.replace(mended, id=f"{candidate.id}-mended", also_from=())
    checked = await check(await execute(mended, schema, context), reference, schema, context)
    return checked if checked.match is Match.MATCH else None


async def repair_all(
    candidates: Sequence[SqlCandidate],
    briefing: Briefing,
    reference: Reference | None,
    context: StageContext,
) -> list[SqlCandidate]:
    """Mend errors first, then add statements for mismatches with the reference, until the budget ends."""
    mended = []
    for candidate in candidates:
        if candidate.match is Match.ERROR:
            candidate = await repair_error(candidate, briefing, reference, context)
        mended.append(candidate)
    if reference is None or not context.configuration.reference_check:
        return mended
    if context.configuration.is_held(Role.SQL_FIXER):
        # Held to the readings of the question, a second try can say nothing that the first could not.
        return mended
    further: dict[str, SqlCandidate] = {}
    tries = 0
    for candidate in mended:
        if candidate.match not in _MISMATCHES or not context.configuration.mismatch_repairs:
            continue
        if tries >= context.configuration.mismatch_repairs_per_question:
            break
        if not context.meter.calls_left(Share.REPAIRS):
            break
        tries += 1
        new = await repair_mismatch(candidate, briefing, reference, context)
        if new is not None:
            further.setdefault(sql_text.normal_form(new.sql, briefing.schema), new)
    known = {sql_text.normal_form(item.sql, briefing.schema) for item in mended if item.sql}
    return [*mended, *(new for form, new in further.items() if form not in known)]


def result_groups(candidates: Sequence[SqlCandidate]) -> list[list[SqlCandidate]]:
    """Executed candidates by equal result, the most votes first."""
    groups: list[list[SqlCandidate]] = []
    for candidate in candidates:
        if candidate.result is None:
            continue
        for group in groups:
            other = group[0].result
            if other is not None and results_equal(other, candidate.result):
                group.append(candidate)
                break
        else:
            groups.append([candidate])
    return sorted(groups, key=lambda group: (-sum(item.votes for item in group), group[0].id))


def backers(group: Sequence[SqlCandidate]) -> set[str]:
    """Programs (and `` for writers without one) whose SQL stands behind a result, untold by a repair."""
    return {name for item in group if not item.shown for name in (item.program_id, *item.also_from)}


def dissent(candidates: Sequence[SqlCandidate], reference: Reference, share: float) -> list[SqlCandidate]:
    """The SQL group that outvotes the reference, or nothing.

    Votes are counted by program: of the programs (and program-less writers) whose SQL ran, at least
    `share`, and at least two, must stand behind one result that is not the reference's.
    """
    groups = result_groups(candidates)
    everyone = {name for group in groups for name in backers(group)}
    for group in groups:
        if any(item.match is Match.MATCH for item in group):
            continue
        behind = backers(group)
        if len(behind) >= 2 and len(behind) >= share * len(everyone):
            return group
    return []


async def counter_check(
    candidates: Sequence[SqlCandidate],
    reference: Reference,
    briefing: Briefing,
    context: StageContext,
) -> tuple[Reference, bool]:
    """(reference, suspect): a doubted reference is mended once with the SQL's result as evidence.

    When the mended program agrees with the SQL its result becomes the reference; otherwise the old one
    stays, and is suspect where fewer programs gave its result than stand behind the SQL's.
    """
    group = dissent(candidates, reference, context.configuration.counter_check_share)
    held = context.configuration.is_held(Role.PROGRAM_FIXER)
    if not group or group[0].result is None or held:
        return reference, False
    evidence = group[0].result
    outnumbered = len(backers(group)) > len(reference.members)
    program = reference.program
    findings = (
        "Several independent SQL statements agree on another result. Look for the step that goes wrong; "
        "if the program is right, repeat it unchanged.\nTheir result:\n"
        + schema_text.result_head(evidence)
        + "\nThis program's result:\n"
        + schema_text.result_head(reference.result)
    )
    source = await s5_programs.fix(
        briefing, program.source, findings, context, seed=program.sample + 50, style=program.style
    )
    if source is None or s5_programs.check(source, briefing.schema, context.configuration.form):
        return reference, outnumbered
    rerun = await s6_running.run(_fresh(program, source), context)
    if rerun.result is None or not results_equal(rerun.result, evidence):
        return reference, outnumbered
    context.notice("reference_replaced", "the reference program was mended after SQL outvoted it")
    return Reference(rerun, rerun.result, reference.support, (rerun.id,)), False


def _fresh(program: PivotProgram, source: str) -> PivotProgram:
    return dataclasses.replace(
        program,
        source=source,
        steps=read_steps(source),
        repairs=program.repairs + 1,
        status=ProgramStatus.PENDING,
        result=None,
        error=None,
    )


def wanted_result(reference: Reference | None) -> ResultTable | None:
    """The result candidates are held to."""
    return reference.result if reference else None


def note_unmatched(candidates: Sequence[SqlCandidate], context: StageContext) -> None:
    """Warn when candidates ran and none gave the reference's result."""
    if any(item.executed for item in candidates) and not any(
        item.match is Match.MATCH for item in candidates
    ):
        context.notice(ErrorCode.NO_MATCH, "no SQL gave the result of the reference program")
