"""`lattice sql ...`: the databases behind `lattice ask`, their examples and evaluations."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from latticework._sql import EvaluationItem, ModelProfile, Verdict
from latticework.cli._command import command, group
from latticework.cli._session import CommandError, ExitCode, Session
from latticework.cli.ask import DOWNLOADS, show_sql
from latticework.cli.jobs import started
from latticework.models import DatabaseView

GOLD_NAMES = ("gold", "query", "SQL", "sql")
"""Where the published sets keep the gold statement."""

Database = Annotated[str, typer.Argument(help="Name or id of a database.")]
Db = Annotated[str | None, typer.Option("--db", "-d", help="Only this database.")]
Limit = Annotated[int, typer.Option(min=1, help="How many, newest first.")]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it can be asked.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    sql = group(app, "sql", "Databases that can be asked, examples, evaluations.")
    for name, function in (
        ("databases", databases), ("add", add), ("upload", upload), ("show", show), ("refresh", refresh),
        ("remove", remove), ("questions", questions), ("rows", rows), ("judge", judge),
        ("examples", examples), ("teach", teach), ("eval", evaluate), ("evaluations", evaluations),
        ("report", report),
    ):  # fmt: skip
        command(sql, name)(function)


def databases(session: Session) -> None:
    """List the databases you may ask."""
    found = list(session.client.sql.databases.list())
    if session.as_json:
        session.emit(found)
        return
    shown = [(one.name, one.dialect, one.state, len(one.tables), one.description, one.id) for one in found]
    session.table("databases", ("name", "dialect", "state", "tables", "what", "id"), shown)


def add(
    session: Session,
    name: Annotated[str, typer.Argument(help="What it will be called.")],
    url: Annotated[
        str | None,
        typer.Argument(
            help="SQLAlchemy URL; without it, it is read from stdin, out of your history's sight."
        ),
    ] = None,
    description: Annotated[str, typer.Option(help="What it holds.")] = "",
    wait: Wait = True,
) -> None:
    """Register a database by its URL."""
    address = url or sys.stdin.readline().strip()
    if not address:
        raise CommandError("There is no URL; give one such as postgresql://user@host/name.", ExitCode.USAGE)
    _added(session, session.client.sql.databases.register(name, address, description=description), wait)


def upload(
    session: Session,
    name: Annotated[str, typer.Argument(help="What it will be called.")],
    files: Annotated[
        list[Path], typer.Argument(help="One SQLite file, or CSV and Parquet files.", exists=True)
    ],
    description: Annotated[str, typer.Option(help="What it holds.")] = "",
    wait: Wait = True,
) -> None:
    """Upload a SQLite file, or CSV and Parquet files as tables."""
    _added(session, session.client.sql.databases.upload(name, files, description=description), wait)


def _added(session: Session, database: DatabaseView, wait: bool) -> None:
    if wait:
        session.note(f"[dim]reading {database.name} ...[/]")
        database = session.client.sql.databases.wait_ready(database.id)
    if session.as_json:
        session.emit(database)
    else:
        tables = f", {len(database.tables)} tables" if database.tables else ""
        session.out.print(f"{database.name} ({database.id}): {database.state}{tables}", markup=False)


def show(session: Session, database: Database) -> None:
    """Show tables and columns, with what is known of their contents."""
    schema = session.client.sql.databases.schema(database)
    if session.as_json:
        session.emit(schema)
        return
    for table in schema.tables:
        session.out.print(
            f"[bold]{_literal(table.name)}[/]  {table.row_count} rows  {_literal(table.description)}"
        )
        for column in table.columns:
            samples = ", ".join(str(sample) for sample in column.samples[:3])
            key = " key" if column.name in table.primary_key else ""
            words = f"  {column.name:<24} {column.type}{key}  {column.description or samples}"
            session.out.print(words.rstrip(), markup=False, soft_wrap=True)
    for join in schema.foreign_keys:
        here, there = ", ".join(join.columns), ", ".join(join.referred_columns)
        session.out.print(f"{join.table}({here}) -> {join.referred_table}({there})", markup=False)


def refresh(session: Session, database: Database) -> None:
    """Read structure and contents of a database again."""
    started(session, session.client.sql.databases.refresh(database), watch=True)


def remove(session: Session, database: Database) -> None:
    """Forget a database; the database itself is not touched."""
    session.client.sql.databases.remove(database)
    if session.as_json:
        session.emit({"removed": database})


def questions(session: Session, db: Db = None, limit: Limit = 20) -> None:
    """List what was asked, newest first."""
    found = session.client.sql.questions.list(database=db, page_size=min(limit, 200)).take(limit)
    if session.as_json:
        session.emit(found)
        return
    shown = [(one.id, one.answer.verdict if one.answer else one.state, one.question) for one in found]
    session.table("questions", ("id", "verdict", "question"), shown)


def rows(
    session: Session,
    question_id: Annotated[str, typer.Argument(help="Id of a question, question_...")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A .csv, .parquet or .arrow file.")],
) -> None:
    """Write all rows of an answer to a file."""
    form = DOWNLOADS.get(output.suffix.lower())
    if form is None:
        raise CommandError(f"{output} must end in {', '.join(DOWNLOADS)}.", ExitCode.USAGE)
    session.client.sql.questions.download(question_id, output, format=form)
    if session.as_json:
        session.emit({"output": str(output)})


def judge(
    session: Session,
    question_id: Annotated[str, typer.Argument(help="Id of a question, question_...")],
    verdict: Annotated[Verdict, typer.Argument(help="Whether its SQL is right.")],
    sql: Annotated[str | None, typer.Option(help="The right SQL, to correct it.")] = None,
    comment: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Approve, correct or reject an answer; what is right becomes an example."""
    example = session.client.sql.questions.judge(question_id, verdict, sql=sql, comment=comment)
    if session.as_json:
        session.emit(example)
    else:
        session.out.print(f"kept as {example.id}" if example else "noted")


def examples(session: Session, db: Db = None, limit: Limit = 50) -> None:
    """List approved pairs of question and SQL, newest first."""
    found = session.client.sql.examples.list(database=db, page_size=min(limit, 200)).take(limit)
    if session.as_json:
        session.emit(found)
        return
    for example in found:
        old = "  [yellow](for an older schema)[/]" if example.stale else ""
        session.out.print(f"[bold]{_literal(example.question)}[/]  [dim]{example.id}[/]{old}", soft_wrap=True)
        show_sql(session, example.sql)
    if not found:
        session.note("No examples.")


def teach(
    session: Session,
    database: Database,
    question: Annotated[str, typer.Argument(help="A question.")],
    sql: Annotated[str, typer.Argument(help="Its right SQL.")],
) -> None:
    """Add an example; it is run first."""
    (made,) = session.client.sql.examples.add([{"database": database, "question": question, "sql": sql}])
    if session.as_json:
        session.emit(made)
    else:
        session.out.print(made.id)


def evaluate(
    session: Session,
    file: Annotated[Path, typer.Argument(help="Questions with gold SQL: JSON or JSON lines.", exists=True)],
    db: Annotated[str | None, typer.Option("--db", "-d", help="Database of all of them.")] = None,
    configuration: Annotated[
        list[str] | None, typer.Option("--configuration", "-c", help="direct, fast, ...; may be repeated.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first ones.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the report.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Another model or alias.")] = None,
    model_profile: Annotated[
        ModelProfile | None, typer.Option(help="How prompts are cut to the model.")
    ] = None,
    timing: Annotated[int, typer.Option(min=0, help="Runs per pair for R-VES.")] = 0,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
) -> None:
    """Measure how good the answers are, as a queued job.

    Takes the fields of the published sets: question, gold (or query, SQL), database (or db_id),
    evidence, difficulty.
    """
    items = [evaluation_item(entry, db) for entry in read_entries(file)[:limit]]
    job = session.client.sql.evaluations.start(
        items,
        name=name,
        configurations=configuration or None,
        model=model,
        model_profile=model_profile,
        timing_iterations=timing,
    )
    started(session, job, watch=watch)


def evaluations(session: Session, limit: Limit = 20) -> None:
    """List evaluations, newest first."""
    found = session.client.sql.evaluations.list(page_size=min(limit, 200)).take(limit)
    if session.as_json:
        session.emit(found)
        return
    shown = [(one.id, one.state, f"{one.progress:.0%}", one.message) for one in found]
    session.table("evaluations", ("id", "state", "done", "message"), shown)


def report(
    session: Session,
    evaluation_id: Annotated[str, typer.Argument(help="Id of an evaluation, job_...")],
    format: Annotated[
        Literal["markdown", "json", "png"], typer.Option(help="As a page, data, or a plot.")
    ] = "markdown",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A file instead of stdout.")] = None,
) -> None:
    """Show the report of an evaluation."""
    content = session.client.sql.evaluations.report(
        evaluation_id, format="json" if session.as_json else format
    )
    if output is not None:
        output.write_bytes(content)
    elif format == "png" and not session.as_json:
        raise CommandError("A plot needs a file; give one with -o.", ExitCode.USAGE)
    else:
        print(content.decode())


def read_entries(file: Path) -> list[Mapping[str, Any]]:
    """The entries of a JSON list, or of JSON lines."""
    text = file.read_text(encoding="utf-8")
    try:
        if text.lstrip().startswith("["):
            entries = json.loads(text)
        else:
            entries = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError as error:
        raise CommandError(f"{file} is neither JSON nor JSON lines: {error}", ExitCode.USAGE) from None
    if not entries or not all(isinstance(entry, dict) and "question" in entry for entry in entries):
        raise CommandError(f"{file} must hold objects with a question.", ExitCode.USAGE)
    return list(entries)


def evaluation_item(entry: Mapping[str, Any], db: str | None) -> EvaluationItem:
    """An entry of any published set as the API takes it."""
    database = db or entry.get("database") or entry.get("db_id")
    if not database:
        raise CommandError("An entry names no database; give one with --db.", ExitCode.USAGE)
    gold: str | list[str] = next((entry[name] for name in GOLD_NAMES if entry.get(name)), [])
    return EvaluationItem(
        database=str(database),
        question=str(entry["question"]),
        gold=[gold] if isinstance(gold, str) else list(gold),
        evidence=str(entry.get("evidence") or ""),
        difficulty=str(entry.get("difficulty") or ""),
    )


def _literal(text: str) -> str:
    return text.replace("[", r"\[")
