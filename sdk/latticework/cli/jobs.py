"""`lattice jobs ...`: queued work of every room."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from latticework import Client
from latticework._jobs import FINAL, JobEvent, check_outcome
from latticework.cli._command import command, group
from latticework.cli._session import CommandError, ExitCode, Session
from latticework.models import Job, JobSummary

STYLES = {"succeeded": "green", "failed": "red", "cancelled": "yellow", "running": "cyan"}

JobId = Annotated[str, typer.Argument(help="Id of a job, job_...")]


State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    jobs = group(app, "jobs", "Queued work: list, show, watch, cancel, retry, submit.")
    for name, function in (
        ("list", list_jobs), ("show", show), ("watch", watch), ("cancel", cancel), ("retry", retry),
        ("submit", submit), ("kinds", kinds),
    ):  # fmt: skip
        command(jobs, name)(function)


def list_jobs(
    session: Session,
    state: Annotated[State | None, typer.Option(help="Only jobs in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="Only jobs of this kind.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, newest first.")] = 20,
) -> None:
    """List jobs, newest first."""
    found = session.client.jobs.list(state=state, kind=kind, page_size=min(limit, 200)).take(limit)
    if session.as_json:
        session.emit(found)
        return
    rows = [
        (job.id, job.kind, state_text(job), f"{job.progress:.0%}", job.message, ago(job)) for job in found
    ]
    session.table("jobs", ("id", "kind", "state", "done", "message", "created"), rows)


def show(session: Session, job_id: JobId) -> None:
    """Show one job in full."""
    job = session.client.jobs.get(job_id)
    if session.as_json:
        session.emit(job)
    else:
        show_job(session, job)


def watch(session: Session, job_id: JobId) -> None:
    """Follow a job to its end, with its progress and last metrics. Ctrl-C leaves it running."""
    follow(session, session.client, job_id)


def cancel(
    session: Session,
    job_id: JobId,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until its process is gone.")] = False,
) -> None:
    """Stop a job."""
    job = session.client.jobs.cancel(job_id)
    if wait:
        job = session.client.jobs.wait(job_id, check=False)
    if session.as_json:
        session.emit(job)
    else:
        session.out.print(f"{job.id}: {'stopping' if job.cancelling else job.state}")


def retry(session: Session, job_id: JobId) -> None:
    """Queue a failed or cancelled job again; it goes on from its last checkpoint."""
    job = session.client.jobs.retry(job_id)
    if session.as_json:
        session.emit(job)
    else:
        session.out.print(f"{job.id}: {job.state}")


def submit(
    session: Session,
    kind: Annotated[str, typer.Argument(help="Kind of work, see `lattice jobs kinds`.")],
    parameters: Annotated[str, typer.Option("--parameters", "-p", help="JSON object.")] = "{}",
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Higher starts earlier.")] = 0,
    wait: Annotated[bool, typer.Option("--watch", "-w", help="Follow it to its end.")] = False,
) -> None:
    """Queue work of a kind."""
    try:
        given = json.loads(parameters)
    except ValueError as error:
        raise CommandError(f"--parameters is not JSON: {error}", ExitCode.USAGE) from None
    if not isinstance(given, dict):
        raise CommandError("--parameters must be a JSON object.", ExitCode.USAGE)
    started(session, session.client.jobs.submit(kind, given, priority=priority), watch=wait)


def kinds(session: Session) -> None:
    """List the kinds of work there are."""
    found = list(session.client.jobs.kinds())
    if session.as_json:
        session.emit(found)
        return
    session.table(
        "kinds", ("kind", "pool", "scope", "what"), [(k.kind, k.pool, k.scope, k.description) for k in found]
    )


def started(session: Session, job: Job, *, watch: bool) -> None:
    """Say that a job was queued, or follow it to its end."""
    if watch:
        session.note(f"[dim]{job.id}[/]")
        follow(session, session.client, job.id)
    elif session.as_json:
        session.emit(job)
    else:
        session.out.print(f"{job.id}: {job.state}; follow it with `lattice jobs watch {job.id}`")


def follow(session: Session, client: Client, job_id: str) -> None:
    """Draw the events of a job until it ends.

    Raises:
        JobFailed, JobCancelled: how it ended.
    """
    before = client.jobs.get(job_id)
    with client.jobs.events(job_id) as events:
        if session.as_json:
            for event in events:
                session.emit_line(event)
        elif session.interactive:
            _draw(session, before, events)
        else:
            for event in events:
                session.out.print(f"{event.at:%H:%M:%S} {event_text(event)}", markup=False)
    after = check_outcome(client.jobs.get(job_id))
    if not session.as_json and after.result is not None:
        session.out.print_json(json.dumps(after.result))


def _draw(session: Session, job: Job, events: Any) -> None:
    columns = (
        TextColumn("{task.fields[state]}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}", markup=False),
        TextColumn("[cyan]{task.fields[metrics]}"),
    )
    with Progress(*columns, console=session.out) as progress:
        # A report names what changed: the last value of every metric stays in sight.
        message, metrics = job.message or "", dict(job.metrics)
        task = progress.add_task(
            job.id, total=1.0, state=job.state, message=message, metrics=metrics_text(metrics)
        )
        progress.update(task, completed=job.progress)
        for event in events:
            data = event.data
            if event.type == "progress":
                metrics.update(data.get("metrics") or {})
                progress.update(
                    task,
                    completed=data.get("progress", 0.0),
                    state="running",
                    message=data.get("message") or "",
                    metrics=metrics_text(metrics),
                )
            elif event.type == "succeeded":
                progress.update(task, completed=1.0, state="[green]succeeded[/]")
            elif event.type in FINAL:
                progress.update(task, state=f"[{STYLES[event.type]}]{event.type}[/]")
            elif event.type != "checkpoint":
                progress.update(task, state=event.type.replace("_", " "))
                if event.type in ("retrying", "handed_back"):
                    progress.console.print(event_text(event), style="yellow", markup=False)


def show_job(session: Session, job: Job) -> None:
    """Everything about a job, one fact a line."""
    session.out.print(
        Text.assemble(job.id, "  ", job.kind, "  ", (state_text(job), STYLES.get(job.state, "")))
    )
    facts = {
        "progress": f"{job.progress:.0%} {job.message or ''}".strip(),
        "metrics": metrics_text(job.metrics),
        "attempt": f"{job.attempt} (up to {job.max_attempts})" if job.attempt else None,
        "waiting on": f"{job.waiting_on} jobs" if job.waiting_on else None,
        "created": moment(job.created_at),
        "not before": moment(job.not_before),
        "started": moment(job.started_at),
        "finished": moment(job.finished_at),
        "deadline": moment(job.deadline),
        "checkpoint": moment(job.checkpoint_at),
        "problem": f"{job.problem.detail} ({job.problem.code})" if job.problem else None,
        "parameters": json.dumps(job.parameters, ensure_ascii=False),
        "result": json.dumps(job.result, ensure_ascii=False) if job.result is not None else None,
    }
    for name, value in facts.items():
        if value:
            session.out.print(f"  {name:<11} {value}", markup=False, soft_wrap=True)


def state_text(job: Job | JobSummary) -> str:
    """The state, or that a stop was asked for."""
    return "cancelling" if job.cancelling and job.state not in FINAL else job.state


def event_text(event: JobEvent) -> str:
    """One event in one line."""
    data = dict(event.data)
    words = [event.type.replace("_", " ")]
    if "progress" in data:
        words.append(f"{data['progress']:.0%}")
    if data.get("message"):
        words.append(str(data["message"]))
    if data.get("metrics"):
        words.append(metrics_text(data["metrics"]))
    if isinstance(data.get("problem"), Mapping):
        words.append(str(data["problem"].get("detail", "")))
    return "  ".join(words)


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """`loss=0.31 accuracy=0.8`."""
    return " ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in metrics.items()
    )


def moment(time: datetime | None) -> str | None:
    """A time where the user is."""
    return None if time is None else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def ago(job: JobSummary) -> str:
    """How long ago the job was made."""
    seconds = (datetime.now(UTC) - job.created_at).total_seconds()
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
