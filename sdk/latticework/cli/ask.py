"""`lattice ask`: a question to a database, its steps, the SQL, the rows and the verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from latticework._sql import Profile, QuestionEvent, QuestionOptions
from latticework.cli._command import command
from latticework.cli._session import CommandError, ExitCode, Session
from latticework.models import AnswerView, QuestionView

STYLES = {"verified": "bold green", "majority": "green", "unverified": "yellow", "refused": "red"}
MEANINGS = {
    "verified": "an independent program gives the same result",
    "majority": "most candidates agree",
    "unverified": "nothing confirms it",
    "refused": "there is no answer",
}
DOWNLOADS: dict[str, Literal["csv", "parquet", "arrow"]] = {
    ".csv": "csv",
    ".parquet": "parquet",
    ".arrow": "arrow",
}


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "ask")(ask)


def ask(
    session: Session,
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    db: Annotated[str, typer.Option("--db", "-d", help="Name or id of the database.")],
    profile: Annotated[
        Profile, typer.Option("--profile", "-p", help="How much effort it may take.")
    ] = "standard",
    evidence: Annotated[
        str, typer.Option("--evidence", "-e", help="A hint about names, codes, definitions.")
    ] = "",
    model: Annotated[str | None, typer.Option("--model", "-m", help="Another model or alias.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Also explain the answer in prose.")] = False,
    rows: Annotated[int, typer.Option(min=0, help="Rows to show.")] = 20,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Also write all rows to a .csv, .parquet or .arrow file."),
    ] = None,
) -> None:
    """Ask a database in plain words."""
    if output is not None and output.suffix.lower() not in DOWNLOADS:
        raise CommandError(f"{output} must end in {', '.join(DOWNLOADS)}.", ExitCode.USAGE)
    options = QuestionOptions(profile=profile, evidence=evidence, explain=explain)
    if model is not None:
        options["model"] = model
    asked: QuestionView | None = None
    with session.client.sql.questions.stream(db, question, **options) as events:
        for event in events:
            asked = event.question or asked
            line = step_text(event)
            if line:
                session.note(f"[dim]{escape(line)}[/]")  # It is data: brackets in it are no markup.
    assert asked is not None
    answer = asked.answer
    if session.as_json:
        session.emit(asked)
    elif answer is not None:
        show_answer(session, answer, rows)
    if output is not None and answer is not None and answer.result is not None:
        session.client.sql.questions.download(asked.id, output, format=DOWNLOADS[output.suffix.lower()])
        session.note(f"[dim]{answer.result.row_count} rows in {escape(str(output))}[/]")
    if answer is None or answer.verdict == "refused":
        raise typer.Exit(ExitCode.REFUSED)


def step_text(event: QuestionEvent) -> str:
    """What a stage found, in one line; nothing for stages that say nothing to a person."""
    data = event.data
    describe = _STEPS.get(event.stage)
    return describe(data) if describe is not None else ""


def _values(data: Mapping[str, Any]) -> str:
    hits = data.get("hits") or []
    shown = ", ".join(f"{hit.get('table')}.{hit.get('column')} = {hit.get('value')!r}" for hit in hits[:3])
    return f"values   {shown}" if hits else ""


def _program(data: Mapping[str, Any]) -> str:
    steps = data.get("steps") or []
    first = steps[0] if steps else ""
    words = first.get("text", "") if isinstance(first, Mapping) else str(first)
    return f"program  {data.get('id')} ({data.get('style')}, {len(steps)} steps) {words}".rstrip()


def _sandbox(data: Mapping[str, Any]) -> str:
    found = data.get("rows")
    outcome = (
        f"{found} rows" if found is not None else str((data.get("error") or {}).get("message", ""))[:100]
    )
    return f"sandbox  {data.get('id')} {data.get('status')} {outcome}".rstrip()


def _candidate(data: Mapping[str, Any]) -> str:
    sql = " ".join(str(data.get("sql", "")).split())
    outcome = f"{data.get('match')}" + (f": {data['error']}" if data.get("error") else "")
    return f"sql      {data.get('id')} {outcome}  {sql[:100]}"


def _agreed(data: Mapping[str, Any]) -> str:
    support = float(data.get("support") or 0)
    return f"agreed   {data.get('program')}: {data.get('rows')} rows, support {support:.0%}"


_STEPS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "values": _values,
    "linked": lambda data: f"schema   {', '.join(data.get('tables') or [])}",
    "program": _program,
    "sandbox": _sandbox,
    "reference": _agreed,
    "candidate": _candidate,
    "selected": lambda data: f"chosen   {data.get('candidate') or 'none'}, {data.get('verdict')}",
}


def show_answer(session: Session, answer: AnswerView, rows: int) -> None:
    """Verdict, steps, SQL and rows."""
    out = session.out
    if answer.steps:
        for step in answer.steps:
            out.print(step, markup=False, soft_wrap=True)
        out.print()
    if answer.sql:
        show_sql(session, answer.sql)
    if answer.result is not None:
        out.print()
        show_rows(session, answer.result.columns, answer.result.rows[:rows])
        if answer.result.row_count > rows:
            session.note(f"[dim]... {answer.result.row_count - rows} more rows[/]")
    if answer.explanation:
        out.print(f"\n{answer.explanation}", markup=False, soft_wrap=True)
    out.print()
    out.print(_verdict(answer), soft_wrap=True)
    for notice in answer.warnings:
        session.note(f"[yellow]{escape(notice.code.replace('_', ' '))}[/]: {escape(notice.message)}")
    for choice in answer.clarifications:
        out.print(f"  - {choice}", markup=False, soft_wrap=True)


def _verdict(answer: AnswerView) -> Text:
    figures = f" (confidence {answer.confidence:.0%}, {answer.budget.calls} model calls, " + (
        f"{answer.budget.wall_seconds:.1f} s)"
    )
    reason = answer.reason or MEANINGS[answer.verdict]
    return Text.assemble((answer.verdict, STYLES[answer.verdict]), f": {reason}", (figures, "dim"))


def show_sql(session: Session, sql: str) -> None:
    """SQL, highlighted where a person watches."""
    if session.interactive:
        session.out.print(Syntax(sql, "sql", theme="ansi_dark", background_color="default", word_wrap=True))
    else:
        session.out.print(sql, markup=False, soft_wrap=True)


def show_rows(session: Session, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A result as a table; numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(Text(column), justify="right" if numbers and rows else "left")
    for row in rows:
        table.add_row(*(Text("NULL", "dim") if cell is None else Text(str(cell)) for cell in row))
    session.out.print(table)
