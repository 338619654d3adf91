"""What a worker writes: it takes jobs, keeps them, and says how each attempt went.

Every write names the attempt it belongs to. Once another attempt has begun, or the job was ended, the
guard fails and the write changes nothing, so a worker that was cut off cannot harm its successor.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, RowMapping, insert, or_, select, update

from shared.identity import Principal
from shared.jobs.backoff import backoff_seconds
from shared.jobs.schemas import JobState
from shared.jobs.store import JobDatabase, dependencies, events, jobs
from shared.jobs.transitions import Guard, announcement, finish, move, requeue
from shared.jobs.transport import Announcement

MESSAGE_LENGTH = 500


class LeaseLost(Exception):
    """The attempt is no longer ours to write."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One attempt at one job; `attempt` is its fencing token."""

    job_id: str
    attempt: int
    kind: str
    pool: str
    principal: Principal
    parameters: dict[str, Any]
    checkpoint: dict[str, Any] | None
    dependencies: dict[str, Any]
    deadline: datetime | None
    timeout_s: float
    result_ttl: timedelta
    trace_parent: str | None
    waited_s: float
    taken_at: float


@dataclass(frozen=True, slots=True)
class Report:
    """Progress as a handler told it."""

    progress: float
    message: str | None
    metrics: dict[str, Any] = field(default_factory=dict)


class Leases:
    """The jobs one worker holds."""

    def __init__(
        self, database: JobDatabase, worker_id: str, *, lease_seconds: float, failed_kept: timedelta
    ) -> None:
        self._database = database
        self.worker_id = worker_id
        self._ttl = timedelta(seconds=lease_seconds)
        self._failed_kept = failed_kept

    async def due(self, pools: Sequence[str], kinds: Sequence[str], limit: int) -> list[str]:
        """Jobs that may start now, straight from the database: the way while Redis is away."""
        statement = (
            select(jobs.c.id)
            .where(*self._startable(kinds), jobs.c.pool.in_(list(pools)))
            .order_by(jobs.c.rank, jobs.c.id)
            .limit(limit)
        )
        async with self._database.reading() as session:
            return list(await session.scalars(statement))

    def _startable(self, kinds: Sequence[str]) -> Guard:
        now = self._database.now()
        return (
            jobs.c.state == JobState.queued.value,
            jobs.c.kind.in_(list(kinds)),
            jobs.c.waiting_on == 0,
            jobs.c.available_at <= now,
            or_(jobs.c.deadline.is_(None), jobs.c.deadline > now),
        )

    async def take(self, job_ids: Sequence[str], kinds: Sequence[str]) -> list[Lease]:
        """Begin an attempt at each of `job_ids` that is still waiting; the others are left out."""
        now, begun = self._database.now(), time.monotonic()
        taken = []
        async with self._database.session() as session:
            for job_id in sorted(job_ids):
                values = {
                    "state": JobState.running.value,
                    "attempt": jobs.c.attempt + 1,
                    "reported": 0,
                    "lease_owner": self.worker_id,
                    "lease_expires_at": now + self._ttl,
                    "started_at": now,
                }
                guard = (jobs.c.id == job_id, *self._startable(kinds))
                row = await move(session, now, guard, "started", {"worker": self.worker_id}, values)
                if row is not None:
                    taken.append(row)
            dependent = [row["id"] for row in taken if row["is_dependent"]]
            results = await self._results(dependent, session) if dependent else {}
        order = {job_id: place for place, job_id in enumerate(job_ids)}
        taken.sort(key=lambda row: order[row["id"]])
        return [_lease(row, now, begun, results.get(row["id"], {})) for row in taken]

    async def _results(self, job_ids: Sequence[str], session: Any) -> dict[str, dict[str, Any]]:
        found = await session.execute(
            select(dependencies.c.job_id, jobs.c.id, jobs.c.result)
            .join(jobs, jobs.c.id == dependencies.c.depends_on)
            .where(dependencies.c.job_id.in_(job_ids))
        )
        results: dict[str, dict[str, Any]] = {}
        for job_id, needed, result in found:
            results.setdefault(job_id, {})[needed] = result
        return results

    async def renew(self) -> dict[str, tuple[int, bool]]:
        """Keep every job this worker holds: `{job_id: (attempt, whether it should be cancelled)}`."""
        statement = (
            update(jobs)
            .where(jobs.c.lease_owner == self.worker_id, jobs.c.state == JobState.running.value)
            .values(lease_expires_at=self._database.now() + self._ttl)
            .returning(jobs.c.id, jobs.c.attempt, jobs.c.cancel_requested_at)
        )
        async with self._database.session() as session:
            rows = (await session.execute(statement)).all()
        return {row.id: (row.attempt, row.cancel_requested_at is not None) for row in rows}

    async def to_cancel(self) -> list[str]:
        """Jobs of this worker that somebody wants stopped."""
        statement = select(jobs.c.id).where(
            jobs.c.lease_owner == self.worker_id,
            jobs.c.state == JobState.running.value,
            jobs.c.cancel_requested_at.is_not(None),
        )
        async with self._database.reading() as session:
            return list(await session.scalars(statement))

    def _held(self, job_id: str, attempt: int) -> tuple[ColumnElement[bool], ...]:
        return (
            jobs.c.id == job_id,
            jobs.c.attempt == attempt,
            jobs.c.lease_owner == self.worker_id,
            jobs.c.state == JobState.running.value,
        )

    async def report(self, lease: Lease, reports: Sequence[tuple[int, Report]]) -> None:
        """Write numbered reports as events and the newest as the job's progress; repeating does nothing."""
        last, newest = reports[-1]
        now = self._database.now()
        guard = (*self._held(lease.job_id, lease.attempt), jobs.c.reported < last)
        async with self._database.session() as session:
            before = (
                await session.execute(select(jobs.c.reported, jobs.c.metrics).where(*guard).with_for_update())
            ).one_or_none()
            if before is None:
                return
            fresh = [report for number, report in reports if number > before.reported]
            metrics = dict(before.metrics or {})
            for report in fresh:
                metrics.update(report.metrics)
            statement = (
                update(jobs)
                .where(*guard)
                .values(
                    reported=last,
                    progress=newest.progress,
                    message=_text(newest.message),
                    metrics=metrics,
                    event_sequence=jobs.c.event_sequence + len(fresh),
                )
                .returning(jobs.c.event_sequence)
            )
            sequence = (await session.execute(statement)).scalar_one() - len(fresh)
            rows = [
                {
                    "job_id": lease.job_id,
                    "sequence": sequence + place,
                    "type": "progress",
                    "at": now,
                    "data": {
                        "progress": report.progress,
                        "message": _text(report.message),
                        "metrics": report.metrics,
                    },
                }
                for place, report in enumerate(fresh, 1)
            ]
            await session.execute(insert(events), rows)

    async def checkpoint(self, lease: Lease, number: int, state: Mapping[str, Any]) -> None:
        """Make `state` what the next attempt starts from, and forgive the failures before it.

        Raises:
            LeaseLost: another attempt has begun.
        """
        now = self._database.now()
        guard = self._held(lease.job_id, lease.attempt)
        values = {"checkpoint": dict(state), "checkpoint_at": now, "failures": 0}
        async with self._database.session() as session:
            row = await move(session, now, guard, "checkpoint", {"number": number}, values)
        if row is None:
            raise LeaseLost(lease.job_id)

    async def succeed(self, lease: Lease, result: Mapping[str, Any]) -> str | None:
        """End the job well, or as cancelled if that was asked; the final state, None if not ours."""
        now = self._database.now()
        guard = (*self._held(lease.job_id, lease.attempt), jobs.c.cancel_requested_at.is_(None))
        async with self._database.session() as session:
            row = await finish(session, now, guard, JobState.succeeded, kept=lease.result_ttl, result=result)
        if row is not None:
            return JobState.succeeded.value
        return await self.cancelled(lease)

    async def cancelled(self, lease: Lease) -> str | None:
        """End the job as cancelled; its process is gone."""
        guard = (*self._held(lease.job_id, lease.attempt), jobs.c.cancel_requested_at.is_not(None))
        async with self._database.session() as session:
            row = await finish(
                session, self._database.now(), guard, JobState.cancelled, kept=lease.result_ttl
            )
        return None if row is None else JobState.cancelled.value

    async def hand_back(self, lease: Lease) -> Announcement | None:
        """Give the job to another worker: nothing went wrong, and no attempt is counted."""
        return await self.release(lease.job_id, lease.attempt)

    async def release(self, job_id: str, attempt: int) -> Announcement | None:
        """`hand_back` for a job of which only the id and the attempt are known."""
        now = self._database.now()
        guard = self._held(job_id, attempt)
        async with self._database.session() as session:
            row = await requeue(session, now, guard, "handed_back", {}, available_at=now)
        return None if row is None else announcement(row)

    async def fail(
        self, lease: Lease, problem: Mapping[str, Any], *, final: bool, after_s: float | None = None
    ) -> tuple[str | None, Announcement | None]:
        """Record a bad end: another attempt after a pause, or `failed`; the new state, None if not ours."""
        guard = self._held(lease.job_id, lease.attempt)
        async with self._database.session() as session:
            row = (
                (await session.execute(select(jobs).where(*guard).with_for_update())).mappings().one_or_none()
            )
            if row is None:
                return None, None
            after = await end_badly(
                session,
                self._database.now(),
                row,
                problem,
                final=final,
                pause_s=after_s,
                failed_kept=self._failed_kept,
            )
        again = after["state"] == JobState.queued.value
        return after["state"], announcement(after) if again else None


async def end_badly(
    session: Any,
    now: datetime,
    row: RowMapping,
    problem: Mapping[str, Any],
    *,
    final: bool,
    pause_s: float | None,
    failed_kept: timedelta,
) -> RowMapping:
    """What follows a bad end of the attempt in `row`, which the caller has locked.

    Cancelled if that was asked, another attempt if the kind allows one, else failed with `problem`.
    """
    guard = (jobs.c.id == row["id"], jobs.c.attempt == row["attempt"], jobs.c.state == JobState.running.value)
    if row["cancel_requested_at"] is not None:
        kept = timedelta(seconds=row["result_ttl_s"])
        return await finish(session, now, guard, JobState.cancelled, kept=kept) or row
    failures = row["failures"] + 1
    if final or failures >= row["max_attempts"]:
        return await finish(session, now, guard, JobState.failed, kept=failed_kept, problem=problem) or row
    if pause_s is None:
        pause_s = backoff_seconds(failures, row["backoff_s"], row["backoff_limit_s"])
    available = now + timedelta(seconds=pause_s)
    data = {"problem": dict(problem), "not_before": available.isoformat()}
    return (
        await requeue(session, now, guard, "retrying", data, available_at=available, failures=failures) or row
    )


def _text(message: str | None) -> str | None:
    """A message short enough to keep and free of what PostgreSQL refuses in text."""
    return None if message is None else message.replace("\x00", "")[:MESSAGE_LENGTH]


def _lease(row: RowMapping, now: datetime, taken_at: float, results: dict[str, Any]) -> Lease:
    principal = row["principal"]
    return Lease(
        job_id=row["id"],
        attempt=row["attempt"],
        kind=row["kind"],
        pool=row["pool"],
        principal=Principal(
            key_id=principal["key_id"],
            tenant=row["tenant"],
            scopes=frozenset(principal["scopes"]),
            request_id=principal["request_id"],
            budget_id=principal["budget_id"],
        ),
        parameters=row["parameters"],
        checkpoint=row["checkpoint"],
        dependencies=results,
        deadline=row["deadline"],
        timeout_s=row["timeout_s"],
        result_ttl=timedelta(seconds=row["result_ttl_s"]),
        trace_parent=row["trace_parent"],
        waited_s=max(0.0, (now - max(row["queued_at"], row["available_at"])).total_seconds()),
        taken_at=taken_at,
    )
