"""S9: the safety gate, the run, and the verdict against the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from services.text2sql.pisql import rendering, sql_text
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import (
    ErrorCode,
    PiSqlError,
    SqlFailedError,
    SqlRejectedError,
)
from services.text2sql.pisql.objects import (
    Match,
    Reference,
    ResultTable,
    SchemaView,
    SqlCandidate,
)
from services.text2sql.pisql.readings import Reading
from services.text2sql.pisql.results import (
    bags_equal,
    column_permutation,
    results_equal,
    rows_digest,
    sequences_equal,
    valid_cut,
)


async def execute(candidate: SqlCandidate, schema: SchemaView, context: StageContext) -> SqlCandidate:
    """The candidate with its result, or with the gate's or the engine's objection."""
    if not candidate.sql:
        return candidate
    unknown = sql_text.unknown_names(candidate.sql, schema)
    if unknown:
        message = "; ".join(str(item) for item in unknown[:5])
        return _failed(candidate, SqlFailedError(message))
    try:
        run = await context.ports.engine.run(candidate.sql, limits=context.configuration.limits)
    except (SqlRejectedError, SqlFailedError) as error:
        return _failed(candidate, error)
    return dataclasses.replace(
        candidate,
        match=Match.UNCHECKED,
        result=run.result,
        digest=run.result.digest or rows_digest(run.result.rows),
        elapsed_ms=run.elapsed_ms,
        error="",
        error_code="",
    )


def _failed(candidate: SqlCandidate, error: PiSqlError) -> SqlCandidate:
    return dataclasses.replace(
        candidate,
        match=Match.ERROR,
        result=None,
        digest="",
        error=str(error),
        error_code=error.code,
    )


def compare(
    reference: ResultTable, result: ResultTable, *, sql_ordered: bool, order_keys: tuple[int, ...] | None
) -> Match:
    """The verdict of a result. Order counts when the program and the SQL both order their rows."""
    if len(reference.columns) != len(result.columns):
        return Match.SHAPE
    if reference.row_count != result.row_count:
        return Match.ROWS
    if not results_equal(reference, result):
        return Match.MATCH if valid_cut(reference, result.rows) else Match.VALUES
    if not (reference.ordered and sql_ordered) or reference.truncated:
        return Match.MATCH
    if sequences_equal(reference.rows, result.rows, order_keys):
        return Match.MATCH
    return Match.ORDER


async def check(
    candidate: SqlCandidate, reference: Reference | None, schema: SchemaView, context: StageContext
) -> SqlCandidate:
    """The candidate with its verdict; a candidate that did not run keeps `error`."""
    result = candidate.result
    if result is None or reference is None or not context.configuration.reference_check:
        return candidate
    ordered = sql_text.is_ordered(candidate.sql, schema.dialect)
    keys = sql_text.order_columns(candidate.sql, schema.dialect) if ordered else None
    match = compare(reference.result, result, sql_ordered=ordered, order_keys=keys)
    if match is Match.ORDER and keys is None:
        match = await _check_hidden_keys(candidate, reference.result, schema, context)
    whole = not result.truncated and not reference.result.truncated
    rows = reference.result.rows
    if match is Match.VALUES and whole and column_permutation(rows, result.rows) is not None:
        context.notice("columns_permuted", f"{candidate.id} gives the reference's columns in another order")
    return dataclasses.replace(candidate, match=match)


async def _check_hidden_keys(
    candidate: SqlCandidate, reference: ResultTable, schema: SchemaView, context: StageContext
) -> Match:
    """Order by keys that are not selected: run once more with the keys, let rows that tie swap."""
    probe = sql_text.with_order_keys(candidate.sql, schema.dialect)
    if probe is None:
        return Match.ORDER
    sql, added = probe
    try:
        run = await context.ports.engine.run(sql, limits=context.configuration.limits)
    except (SqlRejectedError, SqlFailedError):
        return Match.ORDER
    width = len(reference.columns)
    rows = run.result.rows
    if not bags_equal([row[:width] for row in rows], reference.rows):
        return Match.ORDER
    start = 0
    while start < len(rows):
        end = start
        while end < len(rows) and rows[end][width:] == rows[start][width:]:
            end += 1
        if not bags_equal([row[:width] for row in rows[start:end]], reference.rows[start:end]):
            return Match.ORDER
        start = end
    assert added > 0
    return Match.MATCH


async def is_contested(found: Sequence[Reading], reference: Reference, context: StageContext) -> bool:
    """Whether a reading that the question leaves open gives other rows than the reference, or none.

    What could not be tried before the question's deadline contests it too.
    """
    wanted = reference.result
    for reading in found:
        if context.meter.seconds_left() <= 0:
            return True
        try:
            run = await context.ports.engine.run(rendering.sql(reading), limits=context.configuration.limits)
        except (SqlRejectedError, SqlFailedError):
            return True
        if not results_equal(wanted, run.result) and not valid_cut(wanted, run.result.rows):
            return True
    return False


def report(candidate: SqlCandidate, context: StageContext) -> None:
    """Remember an objection of the gate or a time-out; ordinary errors are for repair."""
    if candidate.error_code in (ErrorCode.SQL_REJECTED, ErrorCode.SQL_TIMEOUT):
        context.notice(candidate.error_code, f"{candidate.id}: {candidate.error[:200]}")
