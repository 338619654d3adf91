"""S5: pivot programs in two styles, statically checked before they may run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.text2sql.pisql import parsing, prompts, rendering
from services.text2sql.pisql.configuration import DataForm, ModelProfile, PromptStyle, Role, Share
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import ErrorCode
from services.text2sql.pisql.grammar import python_grammar
from services.text2sql.pisql.objects import (
    Example,
    PivotProgram,
    ProgramError,
    ProgramStatus,
    ProgramStyle,
    Question,
    SchemaView,
    ValueHit,
)
from services.text2sql.pisql.program_text import Finding, check_program, read_steps
from services.text2sql.pisql.readings import FREE, STEADY, Reading, within

_ROUND_SEEDS = 100


@dataclass(frozen=True, slots=True)
class Briefing:
    """What every writer of one question is told; one held to a grammar chooses among `readings`."""

    question: Question
    schema: SchemaView
    hits: tuple[ValueHit, ...] = ()
    examples: tuple[Example, ...] = ()
    readings: tuple[Reading, ...] = ()


async def write(
    briefing: Briefing, style: ProgramStyle, sample: int, context: StageContext, share: Share
) -> PivotProgram | None:
    """One program; None when the budget, the model or the reply's format fails.

    A program that fails the static check costs one repair call; one that fails again is returned with
    status `contract` and never runs.
    """
    settings = context.configuration
    profile = context.profile(Role.PROGRAMMER)
    temperature = settings.temperatures[min(sample, len(settings.temperatures) - 1)]
    if settings.is_held(Role.PROGRAMMER):
        temperature = 0.0
    seed = sample + (_ROUND_SEEDS if style is ProgramStyle.COMMENT else 0)
    source = await context.ask(
        share,
        Role.PROGRAMMER,
        prompts.programmer(
            briefing.question,
            briefing.schema,
            briefing.hits,
            briefing.examples,
            style,
            settings.form,
            profile,
        ),
        _reader(profile),
        temperature=temperature,
        seed=seed,
        grammar=_grammar(briefing, style, context) if profile.grammar else None,
        tags={"style": style.value, "sample": str(sample)},
    )
    if source is None:
        return None
    findings = check(source, briefing.schema, settings.form)
    repairs = 0
    if findings and settings.program_repairs:
        mended = await fix(
            briefing,
            source,
            _listed(findings),
            context,
            seed,
            style,
            {"kind": "check", "sample": str(sample)},
        )
        if mended is not None:
            source, repairs = mended, 1
            findings = check(source, briefing.schema, settings.form)
    return _program(source, style, sample, temperature, repairs, findings)


def _grammar(briefing: Briefing, style: ProgramStyle, context: StageContext) -> str:
    spread = STEADY if context.configuration.is_steady(style) else FREE
    return python_grammar(within(briefing.readings, spread), style)


def _reader(profile: ModelProfile) -> Callable[[str], str]:
    """How replies are read: small models leave out the line that all their programs end with."""
    if profile.style is not PromptStyle.SHORT:
        return parsing.python_block
    return lambda text: rendering.closed(parsing.python_block(text))


def check(source: str, schema: SchemaView, form: DataForm) -> list[Finding]:
    """The static check for the configured data form."""
    return check_program(source, schema, frames=form is DataForm.FRAMES)


def _listed(findings: Sequence[Finding]) -> str:
    return "\n".join(str(finding) for finding in findings[:8])


def _program(
    source: str,
    style: ProgramStyle,
    sample: int,
    temperature: float,
    repairs: int,
    findings: Sequence[Finding],
) -> PivotProgram:
    error = None
    if findings:
        error = ProgramError("contract", _listed(findings), findings[0].line)
    return PivotProgram(
        id=f"{style.value}-{sample + 1}",
        style=style,
        source=source,
        steps=read_steps(source),
        sample=sample,
        temperature=temperature,
        repairs=repairs,
        status=ProgramStatus.CONTRACT if findings else ProgramStatus.PENDING,
        error=error,
    )


async def fix(
    briefing: Briefing,
    source: str,
    findings: str,
    context: StageContext,
    seed: int,
    style: ProgramStyle,
    tags: dict[str, str],
) -> str | None:
    """A mended program text, paid from the repairs' share; `tags` say which program and why."""
    profile = context.profile(Role.PROGRAM_FIXER)
    return await context.ask(
        Share.REPAIRS,
        Role.PROGRAM_FIXER,
        prompts.program_fixer(
            source,
            findings,
            briefing.question,
            briefing.schema,
            briefing.hits,
            style,
            context.configuration.form,
            profile,
        ),
        _reader(profile),
        seed=seed,
        grammar=_grammar(briefing, style, context) if profile.grammar else None,
        tags={"style": style.value, **tags},
    )


async def write_round(
    briefing: Briefing,
    wanted: Sequence[tuple[ProgramStyle, int]],
    context: StageContext,
    share: Share = Share.PROGRAMS,
) -> list[PivotProgram]:
    """Several programs at once, in the order asked for; failed ones are left out."""
    written = await asyncio.gather(
        *(write(briefing, style, sample, context, share) for style, sample in wanted)
    )
    programs = [program for program in written if program is not None]
    if wanted and not programs:
        context.notice(ErrorCode.PROGRAM_ERROR, "no program could be written")
    return programs
