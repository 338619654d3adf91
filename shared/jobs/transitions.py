"""The moves of the state machine. Each is one guarded UPDATE and the event that tells of it.

A move that finds its guard unmet changes nothing and returns None: somebody else was there first.
Callers own the transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, exists, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from shared.jobs.problems import DependencyFailed
from shared.jobs.schemas import JobState
from shared.jobs.store import dependencies, events, jobs, note_bad_end
from shared.jobs.transport import Announcement
from shared.problems import Problem

Guard = Sequence[ColumnElement[bool]]

NO_LEASE: Mapping[str, Any] = {"lease_owner": None, "lease_expires_at": None}
BAD_ENDS = frozenset({"retrying", "failed"})
"""Events that tell of a problem: of an attempt that will be repeated, or of the job."""

_IS_DEPENDENT = exists().where(dependencies.c.job_id == jobs.c.id).label("is_dependent")


async def move(
    session: AsyncSession,
    now: datetime,
    guard: Guard,
    event: str,
    data: Mapping[str, Any],
    values: Mapping[str, Any],
) -> RowMapping | None:
    """Change the one job that meets `guard` and record the event; the row after the change.

    The row also says, as `is_dependent`, whether the job depends on others.
    """
    statement = (
        update(jobs)
        .where(*guard)
        .values(**values, event_sequence=jobs.c.event_sequence + 1)
        .returning(*jobs.c, _IS_DEPENDENT)
    )
    row = (await session.execute(statement)).mappings().one_or_none()
    if row is not None:
        await session.execute(
            insert(events).values(
                job_id=row["id"], sequence=row["event_sequence"], type=event, at=now, data=dict(data)
            )
        )
        # Counted where it is written, so that no way to a bad end is forgotten and none counts twice.
        if event in BAD_ENDS:
            note_bad_end(session, row["kind"], data["problem"]["code"], event)
    return row


async def finish(
    session: AsyncSession,
    now: datetime,
    guard: Guard,
    state: JobState,
    *,
    kept: timedelta,
    result: Mapping[str, Any] | None = None,
    problem: Mapping[str, Any] | None = None,
) -> RowMapping | None:
    """End a job, release what waits for it, and keep the record for `kept`."""
    values: dict[str, Any] = {
        **NO_LEASE,
        "state": state.value,
        "result": result,
        "problem": problem,
        "finished_at": now,
        "expires_at": now + kept,
    }
    if state is JobState.succeeded:
        values["progress"] = 1.0
    data = {"problem": problem} if problem is not None else {}
    row = await move(session, now, guard, state.value, data, values)
    if row is not None:
        await _settle_dependents(session, now, row["id"], state)
    return row


async def _settle_dependents(session: AsyncSession, now: datetime, job_id: str, state: JobState) -> None:
    found = await session.scalars(
        select(dependencies.c.job_id)
        .where(dependencies.c.depends_on == job_id)
        .order_by(dependencies.c.job_id)
    )
    dependents = found.all()
    if not dependents:
        return
    waiting = (jobs.c.id.in_(dependents), jobs.c.state == JobState.queued.value)
    if state is JobState.succeeded:
        await session.execute(update(jobs).where(*waiting).values(waiting_on=jobs.c.waiting_on - 1))
        return
    problem = DependencyFailed(f"The job {job_id} it depends on ended as {state.value}.")
    for dependent in dependents:
        guard = (jobs.c.id == dependent, jobs.c.state == JobState.queued.value)
        ttl = await session.scalar(select(jobs.c.result_ttl_s).where(jobs.c.id == dependent))
        await finish(
            session,
            now,
            guard,
            JobState.failed,
            kept=timedelta(seconds=ttl or 0),
            problem=problem_of(dependent, problem),
        )


async def requeue(
    session: AsyncSession,
    now: datetime,
    guard: Guard,
    event: str,
    data: Mapping[str, Any],
    *,
    available_at: datetime,
    **values: Any,
) -> RowMapping | None:
    """Put a job back into the queue; its announcement is due again."""
    return await move(
        session,
        now,
        guard,
        event,
        data,
        {
            **NO_LEASE,
            "state": JobState.queued.value,
            "available_at": available_at,
            "queued_at": now,
            "announced_at": None,
            **values,
        },
    )


def problem_of(job_id: str, problem: Problem, request_id: str | None = None) -> dict[str, Any]:
    """The problem document kept on a job."""
    return problem.document(instance=f"/v1/jobs/{job_id}", request_id=request_id or None)


def announcement(row: RowMapping) -> Announcement:
    """What Redis is told of a queued job."""
    return Announcement(row["id"], row["pool"], row["rank"], row["created_at"])
