"""S10: mend programs and statements that fail, and whichever of the two is wrong where they disagree.

A program that fails gets one try; a failing statement at most two, a disagreeing one a single try and
four a question. Trying stops when the same error text or the same normal form comes back, or the
budget ends.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from services.text2sql.pisql import parsing, prompts, schema_text, sql_text
from services.text2sql.pisql.configuration import Role, Share
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import ErrorCode
from services.text2sql.pisql.evidence import backers, is_confirmed, is_outvoted, result_groups
from services.text2sql.pisql.grammar import sql_grammar
from services.text2sql.pisql.objects import (
    Match,
    PivotProgram,
    ProgramStatus,
    Reference,
    Repair,
    SqlCandidate,
)
from services.text2sql.pisql.program_text import read_steps
from services.text2sql.pisql.results import results_equal
from services.text2sql.pisql.stages import s5_programs, s6_running
from services.text2sql.pisql.stages.s5_programs import Briefing
from services.text2sql.pisql.stages.s8_candidates import Assignment, read
from services.text2sql.pisql.stages.s9_checking import check, execute

_FAILED = (
    ProgramStatus.ERROR,
    ProgramStatus.CONTRACT,
    ProgramStatus.TIMEOUT,
    ProgramStatus.MEMORY,
    ProgramStatus.NONDETERMINISTIC,
)
_FIXER_SEEDS = 50
_MISMATCHES = (Match.SHAPE, Match.ROWS, Match.ORDER, Match.VALUES)


async def repair_programs(
    programs: Sequence[PivotProgram], briefing: Briefing, context: StageContext
) -> list[PivotProgram]:
    """Programs whose run failed are mended once and run again; what was denied stays denied."""
    if context.configuration.is_held(Role.PROGRAM_FIXER):
        return list(programs)
    return list(await asyncio.gather(*(_repair_program(item, briefing, context) for item in programs)))


async def _repair_program(program: PivotProgram, briefing: Briefing, context: StageContext) -> PivotProgram:
    settings = context.configuration
    spent = program.repairs >= settings.program_repairs
    if program.status not in _FAILED or spent or not context.meter.calls_left(Share.REPAIRS):
        return program
    return await _rewritten(program, _failure(program), briefing, context, {"kind": "run"}) or program


def _failure(program: PivotProgram) -> str:
    """What the fixer is told of a run that failed."""
    error = program.error
    if error is None:
        return f"The run ended as: {program.status.value}"
    place = f"step {error.step}, line {error.line}: " if error.line else ""
    return f"The run ended as {program.status.value}: {place}{error.type}: {error.message}"


async def _rewritten(
    program: PivotProgram, findings: str, briefing: Briefing, context: StageContext, tags: dict[str, str]
) -> PivotProgram | None:
    """The program mended and run again; None when the reply is no other program that may run."""
    source = await s5_programs.fix(
        briefing,
        program.source,
        findings,
        context,
        seed=program.sample + _FIXER_SEEDS,
        style=program.style,
        tags={"program": program.id, **tags},
    )
    if source is None or source.strip() == program.source.strip():
        return None
    if s5_programs.check(source, briefing.schema, context.configuration.form):
        return None
    fresh = dataclasses.replace(
        program,
        source=source,
        steps=read_steps(source),
        repairs=program.repairs + 1,
        status=ProgramStatus.PENDING,
        result=None,
        error=None,
    )
    return await s6_running.run(fresh, context)


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
    programs: Sequence[PivotProgram],
    context: StageContext,
    *,
    doubted: bool = False,
) -> list[SqlCandidate]:
    """Mend errors first, then add statements for mismatches with the reference, until the budget ends.

    Nothing is mended towards a reference that is outvoted, nor to one that is `doubted` unless as large a
    share of the readings stands behind it as a verdict of `verified` takes.
    """
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
    if not any(item.match in _MISMATCHES for item in mended):
        return mended
    share = context.configuration.verified_share
    if doubted and not is_confirmed(mended, reference, programs, share):
        return mended
    if is_outvoted(mended, reference, programs):
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


def dissent(
    candidates: Sequence[SqlCandidate],
    reference: Reference,
    programs: Sequence[PivotProgram],
    share: float,
) -> tuple[SqlCandidate, ...]:
    """The SQL that puts the reference in doubt, or nothing.

    Votes are counted by program: of the programs (and program-less writers) whose SQL ran, at least
    `share`, and at least two, must stand behind one result that is not the reference's.
    """
    groups = result_groups(candidates, programs)
    everyone = {name for group in groups for name in backers(group.candidates)}
    for group in groups:
        if any(item.match is Match.MATCH for item in group.candidates):
            continue
        behind = backers(group.candidates)
        if len(behind) >= 2 and len(behind) >= share * len(everyone):
            return group.candidates
    return ()


async def counter_check(
    candidates: Sequence[SqlCandidate],
    reference: Reference,
    programs: Sequence[PivotProgram],
    briefing: Briefing,
    context: StageContext,
) -> tuple[PivotProgram | None, bool]:
    """(mended, doubted): where SQL dissents the reference is mended once with its result as evidence.

    The mended program comes with the SQL's result, and may vote again; None leaves the reference in doubt.
    """
    share = context.configuration.counter_check_share
    group = dissent(candidates, reference, programs, share)
    if not group or group[0].result is None or context.configuration.is_held(Role.PROGRAM_FIXER):
        return None, False
    evidence = group[0].result
    findings = (
        "Several independent SQL statements agree on another result. Look for the step that goes wrong; "
        "if the program is right, repeat it unchanged.\nTheir result:\n"
        + schema_text.result_head(evidence)
        + "\nThis program's result:\n"
        + schema_text.result_head(reference.result)
    )
    tags = {
        "kind": "doubt",
        "evidence_strategy": group[0].strategy.value,
        "evidence_program": group[0].program_id,
    }
    mended = await _rewritten(reference.program, findings, briefing, context, tags)
    if mended is None or mended.result is None or not results_equal(mended.result, evidence):
        return None, True
    return mended, True


def note_unmatched(candidates: Sequence[SqlCandidate], context: StageContext) -> None:
    """Warn when candidates ran and none gave the reference's result."""
    if any(item.executed for item in candidates) and not any(
        item.match is Match.MATCH for item in candidates
    ):
        context.notice(ErrorCode.NO_MATCH, "no SQL gave the result of the reference program")
