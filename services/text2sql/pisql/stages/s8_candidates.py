"""S8: SQL candidates, each written by one strategy after one program (or after none)."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from services.text2sql.pisql import parsing, prompts, sql_text
from services.text2sql.pisql.configuration import Configuration, Role, Share
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import SqlFailedError
from services.text2sql.pisql.grammar import sql_grammar
from services.text2sql.pisql.objects import (
    Match,
    PivotProgram,
    ProgramStatus,
    ProgramStyle,
    Reference,
    SchemaView,
    SqlCandidate,
    Strategy,
)
from services.text2sql.pisql.readings import FREE, STEADY, within
from services.text2sql.pisql.stages.s5_programs import Briefing
from services.text2sql.pisql.stages.s7_reference import ranked_groups, representative


@dataclass(frozen=True, slots=True)
class Assignment:
    """One SQL to be written."""

    strategy: Strategy
    program: PivotProgram | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What makes two assignments the same work."""
        return (self.program.id if self.program else "", self.strategy.value)


def plan(
    programs: Sequence[PivotProgram], reference: Reference | None, settings: Configuration
) -> list[Assignment]:
    """The spread of writers, most valuable first.

    The best program of each style of the reference group with every strategy, one `follow_code` per
    program of other groups, and the direct writers; without a reference, dry programs guide.
    """
    assignments: list[Assignment] = []
    guides = _guides(programs, reference, settings)
    for strategy in settings.writers():
        assignments += [Assignment(strategy, program) for program in guides]
    if guides and settings.direct_sql:
        assignments.insert(1, Assignment(Strategy.DIRECT))
        assignments += [Assignment(Strategy.DIRECT)] * (settings.direct_sql - 1)
    else:
        assignments += [Assignment(Strategy.DIRECT)] * max(1, settings.direct_sql)
    if reference is not None:
        others = [
            representative(group)
            for group in ranked_groups(programs)
            if reference.program.id not in {program.id for program in group}
        ]
        assignments += [
            Assignment(Strategy.FOLLOW_CODE, program) for program in others[: settings.other_groups]
        ]
    return assignments


def _guides(
    programs: Sequence[PivotProgram], reference: Reference | None, settings: Configuration
) -> list[PivotProgram]:
    """The best program of each style among those the SQL should follow."""
    if reference is not None:
        usable = [program for program in programs if program.id in reference.members]
    else:
        dry = (ProgramStatus.DRY, ProgramStatus.TOO_BIG)
        usable = [program for program in programs if program.status in dry]
    guides = []
    for style in settings.styles or tuple(ProgramStyle):
        same = [program for program in usable if program.style is style]
        if same:
            guides.append(min(same, key=lambda item: (item.repairs, len(item.source), item.id)))
    return guides


async def write(
    briefing: Briefing, assignment: Assignment, number: int, context: StageContext, seed: int = 0
) -> SqlCandidate | None:
    """One candidate, cleaned; a text that does not parse is kept with its error for repair."""
    profile = context.profile(Role.SQL_WRITER)
    program = assignment.program
    raw = await context.ask(
        Share.SQL,
        Role.SQL_WRITER,
        prompts.sql_writer(
            briefing.question,
            briefing.schema,
            briefing.hits,
            briefing.examples,
            assignment.strategy,
            program,
            profile,
        ),
        parsing.sql_block,
        temperature=0.0 if seed == 0 else 0.8,
        seed=seed,
        grammar=_grammar(briefing, program, context) if profile.grammar else None,
        tags={
            "strategy": assignment.strategy.value,
            "program": program.id if program else "",
        },
    )
    if raw is None:
        return None
    return read(raw, assignment, number, briefing.schema)


def _grammar(briefing: Briefing, program: PivotProgram | None, context: StageContext) -> str:
    steady = context.configuration.is_steady(program.style if program else None)
    return sql_grammar(within(briefing.readings, STEADY if steady else FREE))


def read(raw: str, assignment: Assignment, number: int, schema: SchemaView) -> SqlCandidate:
    """The candidate of a raw statement."""
    name = f"sql-{number}"
    program_id = assignment.program.id if assignment.program else ""
    try:
        cleaned = sql_text.clean(raw, schema)
        return SqlCandidate(
            id=name,
            strategy=assignment.strategy,
            raw_sql=raw,
            sql=cleaned,
            program_id=program_id,
            node_count=sql_text.node_count(cleaned, schema.dialect),
        )
    except SqlFailedError as error:
        return SqlCandidate(
            id=name,
            strategy=assignment.strategy,
            raw_sql=raw,
            sql="",
            program_id=program_id,
            match=Match.ERROR,
            error=str(error),
            error_code=error.code,
        )


async def write_round(
    briefing: Briefing, assignments: Sequence[Assignment], first: int, context: StageContext
) -> list[SqlCandidate]:
    """Candidates of several assignments at once, numbered from `first`, duplicates dropped."""
    seeds: dict[tuple[str, str], int] = {}
    jobs = []
    for offset, assignment in enumerate(assignments):
        seed = seeds[assignment.key] = seeds.get(assignment.key, -1) + 1
        jobs.append(write(briefing, assignment, first + offset, context, seed))
    return [item for item in await asyncio.gather(*jobs) if item is not None]


def without_duplicates(candidates: Sequence[SqlCandidate], schema: SchemaView) -> list[SqlCandidate]:
    """Candidates of different normal form; of equal ones the first stays and counts the others' votes.

    Unparsable texts are compared as they are.
    """
    by_form: dict[str, SqlCandidate] = {}
    for candidate in candidates:
        form = sql_text.normal_form(candidate.sql, schema) if candidate.sql else candidate.raw_sql
        first = by_form.get(form)
        if first is None:
            by_form[form] = candidate
        else:
            also = (*first.also_from, candidate.program_id)
            by_form[form] = dataclasses.replace(first, also_from=also)
    return list(by_form.values())
