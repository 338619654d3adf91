"""S6: run programs in the sandbox, and only there."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import ErrorCode, SandboxUnavailableError
from services.text2sql.pisql.objects import PivotProgram, ProgramStatus
from services.text2sql.pisql.ports import ProgramRun
from services.text2sql.pisql.program_text import step_of_line, tables_of

_CODES = {
    ProgramStatus.ERROR: ErrorCode.PROGRAM_ERROR,
    ProgramStatus.CONTRACT: ErrorCode.PROGRAM_ERROR,
    ProgramStatus.NONDETERMINISTIC: ErrorCode.PROGRAM_ERROR,
    ProgramStatus.TIMEOUT: ErrorCode.PROGRAM_TIMEOUT,
    ProgramStatus.MEMORY: ErrorCode.PROGRAM_ERROR,
    ProgramStatus.DENIED: ErrorCode.PROGRAM_DENIED,
    ProgramStatus.TOO_BIG: ErrorCode.RESULT_TOO_LARGE,
}


async def run(program: PivotProgram, context: StageContext) -> PivotProgram:
    """The program with its outcome. One that failed the static check does not run.

    Without a sandbox, or with execution switched off, the outcome is `dry`: the program guides but
    never votes. A table too large to hand over gives `too_big`, which guides as well.
    """
    settings = context.configuration
    if program.status is not ProgramStatus.PENDING:
        return program
    runner = context.ports.programs
    if not settings.execute_programs or runner is None or not context.meter.sandbox_left():
        if runner is None:
            context.notice(ErrorCode.SANDBOX_UNAVAILABLE, "no sandbox: programs were written but not run")
        return dataclasses.replace(program, status=ProgramStatus.DRY)
    try:
        outcome = await runner.run(
            program.source,
            tables=tables_of(program.source),
            form=settings.form,
            today=settings.today,
            runs=settings.determinism_runs,
            limits=settings.limits,
        )
    except SandboxUnavailableError as error:
        context.notice(ErrorCode.SANDBOX_UNAVAILABLE, str(error) or "the sandbox is not available")
        return dataclasses.replace(program, status=ProgramStatus.DRY)
    context.meter.record_sandbox(outcome.cpu_ms)
    return _settled(program, outcome, context)


def _settled(program: PivotProgram, outcome: ProgramRun, context: StageContext) -> PivotProgram:
    error = outcome.error
    if error is not None and error.line:
        error = dataclasses.replace(error, step=step_of_line(program.steps, error.line))
    code = _CODES.get(outcome.status)
    if code is not None:
        why = f" ({error.message[:160]})" if error else ""
        context.notice(code, f"program {program.id}: {outcome.status.value}{why}")
    return dataclasses.replace(
        program,
        status=outcome.status,
        result=outcome.result,
        error=error,
        wall_ms=outcome.wall_ms,
        cpu_ms=outcome.cpu_ms,
        peak_mib=outcome.peak_mib,
    )


async def run_all(programs: Sequence[PivotProgram], context: StageContext) -> list[PivotProgram]:
    """Every program with its outcome, in the order given."""
    return list(await asyncio.gather(*(run(item, context) for item in programs)))
