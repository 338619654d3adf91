"""S12: put the answer together: SQL, rows, verdict, confidence, steps, provenance, warnings."""

from __future__ import annotations

from collections.abc import Sequence

from services.text2sql.pisql import prompts, sql_text
from services.text2sql.pisql.configuration import Role, Share
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import BadOutputError, ErrorCode, SqlFailedError
from services.text2sql.pisql.objects import (
    Answer,
    PivotProgram,
    Question,
    Reference,
    SchemaView,
    SqlCandidate,
    Verdict,
)
from services.text2sql.pisql.program_text import step_lines
from services.text2sql.pisql.stages.s0_admit import Refusal
from services.text2sql.pisql.stages.s11_selection import Choice


def refused(question: Question, schema: SchemaView, refusal: Refusal, context: StageContext) -> Answer:
    """The answer to a question that is not answered."""
    return Answer(
        question_id=question.id,
        dialect=schema.dialect,
        verdict=Verdict.REFUSED,
        reason=refusal.reason,
        code=refusal.code,
        clarifications=refusal.choices,
        fingerprint=schema.fingerprint,
        calls=tuple(context.calls),
        budget=context.meter.use(),
        warnings=tuple(context.notices),
        timings_ms=dict(context.timings_ms),
    )


def _prose(text: str) -> str:
    plain = text.strip()
    if not plain:
        raise BadOutputError("answer with one to three sentences")
    return plain[:1_000]


async def explain(question: Question, choice: Choice, steps: Sequence[str], context: StageContext) -> str:
    """The model's short explanation where configured, else nothing: the steps explain."""
    candidate = choice.candidate
    if not context.configuration.explain or candidate is None or candidate.result is None:
        return ""
    text = await context.ask(
        Share.REPAIRS,
        Role.EXPLAINER,
        prompts.explainer(question, candidate.sql, steps, candidate.result.columns),
        _prose,
        max_tokens=200,
    )
    return text or ""


def steps_of(reference: Reference | None, programs: Sequence[PivotProgram]) -> tuple[str, ...]:
    """Steps of the reference; without one, of the first program that has any."""
    if reference is not None:
        return step_lines(reference.program.steps)
    return next((step_lines(program.steps) for program in programs if program.steps), ())


async def build(
    question: Question,
    schema: SchemaView,
    reference: Reference | None,
    programs: Sequence[PivotProgram],
    candidates: Sequence[SqlCandidate],
    choice: Choice,
    context: StageContext,
) -> Answer:
    """The answer of a question that was worked on."""
    candidate = choice.candidate
    use = context.meter.use()
    if use.exhausted:
        context.notice(ErrorCode.BUDGET_EXHAUSTED, "the budget ended before every step was taken")
    steps = steps_of(reference, programs)
    explanation = await explain(question, choice, steps, context)
    if candidate is None:
        return _unanswered(question, schema, steps, programs, candidates, context)
    support = reference.support if reference and choice.verdict is Verdict.VERIFIED else 0.0
    confidence = choice.ratio * (support if choice.verdict is Verdict.VERIFIED else 0.5)
    try:
        tables, columns = sql_text.used_names(candidate.sql, schema)
    except SqlFailedError:
        tables, columns = (), ()
    result = candidate.result
    if result is not None and result.truncated:
        context.notice(ErrorCode.RESULT_TOO_LARGE, f"only the first {len(result.rows)} rows are kept")
    return Answer(
        question_id=question.id,
        dialect=schema.dialect,
        verdict=choice.verdict,
        sql=candidate.sql,
        result=result,
        confidence=round(confidence if result is not None else 0.0, 4),
        support=round(support, 4),
        match_ratio=round(choice.ratio, 4),
        steps=steps,
        tables=tables,
        columns=columns,
        explanation=explanation,
        code="" if result is not None else candidate.error_code,
        reason="" if result is not None else candidate.error,
        fingerprint=schema.fingerprint,
        chosen=candidate.id,
        programs=tuple(programs),
        candidates=tuple(candidates),
        calls=tuple(context.calls),
        budget=context.meter.use(),
        warnings=tuple(context.notices),
        timings_ms={name: round(value, 3) for name, value in context.timings_ms.items()},
    )


def _unanswered(
    question: Question,
    schema: SchemaView,
    steps: tuple[str, ...],
    programs: Sequence[PivotProgram],
    candidates: Sequence[SqlCandidate],
    context: StageContext,
) -> Answer:
    """Nothing could be written: say why as precisely as the warnings allow."""
    codes = [notice.code for notice in context.notices]
    ranked = (ErrorCode.LLM_UNAVAILABLE, ErrorCode.LLM_BAD_OUTPUT, ErrorCode.BUDGET_EXHAUSTED)
    code = next((item for item in ranked if item in codes), None)
    if code is None and candidates:
        code = ErrorCode.SQL_ERROR
    reason = candidates[0].error if code is ErrorCode.SQL_ERROR else "no SQL could be written"
    return Answer(
        question_id=question.id,
        dialect=schema.dialect,
        verdict=Verdict.UNVERIFIED,
        steps=steps,
        code=str(code or ErrorCode.LLM_UNAVAILABLE),
        reason=reason,
        fingerprint=schema.fingerprint,
        programs=tuple(programs),
        candidates=tuple(candidates),
        calls=tuple(context.calls),
        budget=context.meter.use(),
        warnings=tuple(context.notices),
        timings_ms=dict(context.timings_ms),
    )
