"""What callers do to jobs: submit, look, cancel, run again. Every query is bounded by the tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import RowMapping, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from shared.database import decode_cursor, encode_cursor
from shared.idempotency import IdempotencyConflict
from shared.jobs.listing import Visible, newest
from shared.jobs.problems import JobFinished, JobNotFound, JobNotRetryable
from shared.jobs.schemas import Job, JobEvent, JobState, JobSummary
from shared.jobs.store import JobDatabase, dependencies, events, jobs
from shared.jobs.transitions import finish, move, requeue
from shared.problems import Conflict, FieldError, Unprocessable

_HEAVY = {"parameters", "result", "checkpoint", "principal"}
_SUMMARY = [column for column in jobs.c if column.name not in _HEAVY]
EVENTS_AT_ONCE = 500


async def submit(
    database: JobDatabase, row: dict[str, Any], depends_on: Sequence[str], visible: Visible
) -> tuple[Job, bool]:
    """Commit a new job; the job and whether it is new.

    Raises:
        IdempotencyConflict: the key was used with another request.
        Unprocessable: a job it depends on cannot be seen, or has ended badly.
    """
    try:
        async with database.session() as session:
            waiting_on = await _count_unfinished(session, depends_on, visible)
            row = {**row, "waiting_on": waiting_on, "event_sequence": 1}
            inserted = (await session.execute(insert(jobs).values(row).returning(*jobs.c))).mappings().one()
            await session.execute(
                insert(events).values(
                    job_id=row["id"], sequence=1, type="queued", at=row["created_at"], data={}
                )
            )
            if depends_on:
                await session.execute(
                    insert(dependencies),
                    [{"job_id": row["id"], "depends_on": name} for name in sorted(set(depends_on))],
                )
        return to_job(inserted, sorted(set(depends_on))), True
    except IntegrityError:
        if row["idempotency_key"] is None:
            raise
    known = await find_submitted(database, row["tenant"], row["idempotency_key"], row["fingerprint"])
    if known is None:
        raise Conflict("Two requests with this Idempotency-Key met; repeat the request.")
    return known, False


async def find_submitted(database: JobDatabase, tenant: str, key: str, fingerprint: str) -> Job | None:
    """The job an earlier request with this idempotency key made.

    Raises:
        IdempotencyConflict: the key was used with another request.
    """
    async with database.reading() as session:
        statement = select(jobs).where(jobs.c.tenant == tenant, jobs.c.idempotency_key == key)
        known = (await session.execute(statement)).mappings().one_or_none()
        if known is None:
            return None
        if known["fingerprint"] != fingerprint:
            raise IdempotencyConflict("This Idempotency-Key was used with another request; use a fresh key.")
        return to_job(known, await _depends_on(session, known["id"]))


async def _count_unfinished(session: AsyncSession, depends_on: Sequence[str], visible: Visible) -> int:
    if not depends_on:
        return 0
    wanted = sorted(set(depends_on))
    # Locked in one order and until our row is committed: a job that finishes meanwhile sees us wait.
    statement = (
        select(jobs.c.id, jobs.c.state)
        .where(jobs.c.id.in_(wanted), *Visible(visible.principal).where())
        .order_by(jobs.c.id)
        .with_for_update()
    )
    states = {found.id: JobState(found.state) for found in await session.execute(statement)}
    for number, name in enumerate(depends_on):
        location = f"body.depends_on.{number}"
        if name not in states:
            raise Unprocessable(
                f"There is no job {name} to depend on.",
                errors=[FieldError(location=location, message="no such job")],
            )
        if states[name] in (JobState.failed, JobState.cancelled):
            raise Unprocessable(
                f"The job {name} has {states[name].value}; retry it first.",
                errors=[FieldError(location=location, message=f"ended as {states[name].value}")],
            )
    return sum(state is not JobState.succeeded for state in states.values())


async def count_queued(database: JobDatabase, tenant: str) -> int:
    """How many jobs of a tenant wait."""
    async with database.reading() as session:
        statement = select(func.count()).where(jobs.c.tenant == tenant, jobs.c.state == JobState.queued.value)
        return int(await session.scalar(statement) or 0)


async def get(database: JobDatabase, job_id: str, visible: Visible) -> Job:
    """One job.

    Raises:
        JobNotFound: there is none the caller may see.
    """
    async with database.reading() as session:
        row = await _find(session, job_id, visible)
        return to_job(row, await _depends_on(session, job_id))


async def listing(
    database: JobDatabase,
    visible: Visible,
    *,
    states: Sequence[JobState] = (),
    kinds: Sequence[str] = (),
    cursor: str | None = None,
    limit: int = 50,
) -> tuple[list[JobSummary], str | None]:
    """One page of jobs, newest first, and the cursor of the next."""
    before = None if cursor is None else decode_cursor(cursor)
    statement = newest(visible, _SUMMARY, states=states, kinds=kinds, before=before, limit=limit + 1)
    async with database.reading() as session:
        rows = (await session.execute(statement)).mappings().all()
        page = rows[:limit]
        needs = await session.execute(
            select(dependencies)
            .where(dependencies.c.job_id.in_([row["id"] for row in page]))
            .order_by(dependencies.c.depends_on)
        )
        of: dict[str, list[str]] = {}
        for need in needs:
            of.setdefault(need.job_id, []).append(need.depends_on)
    summaries = [JobSummary(**_common(row, of.get(row["id"], []))) for row in page]
    return summaries, encode_cursor(page[-1]["id"]) if len(rows) > limit else None


async def cancel(database: JobDatabase, job_id: str, visible: Visible) -> Job:
    """Cancel a job: a waiting one at once, a running one as soon as its worker has stopped it.

    Raises:
        JobNotFound: there is none the caller may see.
        JobFinished: it is over.
    """
    async with database.session() as session:
        row = await _find(session, job_id, visible, lock=True)
        state, now = JobState(row["state"]), database.now()
        guard = (jobs.c.id == job_id, jobs.c.state == state.value)
        if state is JobState.queued:
            kept = timedelta(seconds=row["result_ttl_s"])
            row = await finish(session, now, guard, JobState.cancelled, kept=kept) or row
        elif state is JobState.running and row["cancel_requested_at"] is None:
            row = await move(session, now, guard, "cancelling", {}, {"cancel_requested_at": now}) or row
        elif state in (JobState.succeeded, JobState.failed):
            raise JobFinished(f"The job has {state.value} already; there is nothing to cancel.")
        return to_job(row, await _depends_on(session, job_id))


async def retry(database: JobDatabase, job_id: str, visible: Visible) -> Job:
    """Queue a failed or cancelled job again; it continues from its checkpoint.

    Raises:
        JobNotFound: there is none the caller may see.
        JobNotRetryable: it has not failed, its deadline is over, or a job it depends on has not succeeded.
    """
    async with database.session() as session:
        row = await _find(session, job_id, visible, lock=True)
        state, now = JobState(row["state"]), database.now()
        if state not in (JobState.failed, JobState.cancelled):
            raise JobNotRetryable(
                f"Only a failed or cancelled job can be retried; this one is {state.value}."
            )
        if row["deadline"] is not None and row["deadline"] <= now:
            raise JobNotRetryable("The deadline of the job is over; submit a new one.")
        needs = await _depends_on(session, job_id)
        try:
            waiting_on = await _count_unfinished(session, needs, visible)
        except Unprocessable as error:
            raise JobNotRetryable(error.detail) from None
        guard = (jobs.c.id == job_id, jobs.c.state == state.value)
        values: dict[str, Any] = {
            "waiting_on": waiting_on,
            "failures": 0,
            "result": None,
            "problem": None,
            "cancel_requested_at": None,
            "finished_at": None,
            "expires_at": None,
        }
        row = await requeue(session, now, guard, "queued", {"retry": True}, available_at=now, **values) or row
        return to_job(row, needs)


async def events_after(database: JobDatabase, job_id: str, after: int) -> list[JobEvent]:
    """The next events of a job, in order."""
    statement = (
        select(events)
        .where(events.c.job_id == job_id, events.c.sequence > after)
        .order_by(events.c.sequence)
        .limit(EVENTS_AT_ONCE)
    )
    async with database.reading() as session:
        rows = (await session.execute(statement)).mappings().all()
    return [JobEvent(**row) for row in rows]


async def state_of(database: JobDatabase, job_id: str) -> JobState | None:
    """The state of a job; None when it has been deleted."""
    async with database.reading() as session:
        state = await session.scalar(select(jobs.c.state).where(jobs.c.id == job_id))
    return None if state is None else JobState(state)


async def _find(session: AsyncSession, job_id: str, visible: Visible, *, lock: bool = False) -> RowMapping:
    statement = select(jobs).where(jobs.c.id == job_id, *visible.where())
    if lock:
        statement = statement.with_for_update()
    row = (await session.execute(statement)).mappings().one_or_none()
    if row is None:
        raise JobNotFound(f"There is no job {job_id[:40]}.")
    return row


async def _depends_on(session: AsyncSession, job_id: str) -> list[str]:
    found = await session.scalars(
        select(dependencies.c.depends_on)
        .where(dependencies.c.job_id == job_id)
        .order_by(dependencies.c.depends_on)
    )
    return list(found)


def to_job(row: RowMapping, depends_on: Sequence[str]) -> Job:
    """The job as callers see it."""
    return Job(**_common(row, depends_on), parameters=row["parameters"], result=row["result"])


def _common(row: RowMapping, depends_on: Sequence[str]) -> dict[str, Any]:
    running = row["state"] == JobState.running.value
    same = (
        "id", "kind", "pool", "state", "attempt", "max_attempts", "progress", "message", "problem",
        "waiting_on", "not_before", "deadline", "created_at", "started_at", "finished_at", "expires_at",
        "checkpoint_at",
    )  # fmt: skip
    return {
        **{name: row[name] for name in same},
        "cancelling": running and row["cancel_requested_at"] is not None,
        "priority": -row["rank"],
        "metrics": row["metrics"] or {},
        "depends_on": list(depends_on),
        "timeout": row["timeout_s"],
    }


def new_row(now: datetime, **values: Any) -> dict[str, Any]:
    """A fresh `jobs` row: what never varies at submit, and `values`."""
    return {
        "state": JobState.queued.value,
        "attempt": 0,
        "failures": 0,
        "progress": 0.0,
        "reported": 0,
        "created_at": now,
        "queued_at": now,
        **values,
    }
