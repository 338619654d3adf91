"""What the states and events of jobs mean."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from httpx2 import ServerSentEvent
from pydantic import TypeAdapter

from latticework._config import RetryPolicy
from latticework._events import Decoded, Decoder, parse
from latticework._exceptions import JobCancelled, JobFailed
from latticework._model import ApiModel
from latticework.models import Job, JobSummary

FINAL = frozenset({"succeeded", "failed", "cancelled"})
POLL_SECONDS = 0.5

FOLLOWING = RetryPolicy(max_retries=40, first_delay=0.2, max_delay=10.0)
"""A job may run for hours: its followers outlast a restart of the suite (about six minutes)."""


class JobEvent(ApiModel):
    """One thing that happened to a job; `sequence` counts from 1 without gaps.

    Types: queued, started, progress, checkpoint, retrying, handed_back, cancelling, and the final
    succeeded, failed, cancelled. Written by hand, since OpenAPI does not describe events.
    """

    job_id: str
    sequence: int
    type: str
    at: datetime
    data: dict[str, Any]


def is_final(job: Job | JobSummary) -> bool:
    """Whether nothing more will happen to it unless somebody asks for a retry."""
    return job.state in FINAL


def check_outcome(job: Job) -> Job:
    """The job, if it succeeded.

    Raises:
        JobFailed, JobCancelled: it did not.
    """
    if job.state == "cancelled":
        raise JobCancelled(f"Job {job.id} was cancelled.", job)
    if job.state == "failed":
        why = job.problem.detail if job.problem else "no problem was recorded"
        raise JobFailed(f"Job {job.id} ({job.kind}) failed: {why}", job)
    return job


def job_events() -> Decoder[JobEvent]:
    """Decoder of a job's events. A job that failed and was retried goes on after its final event."""
    adapter = TypeAdapter(JobEvent)

    def decode(event: ServerSentEvent) -> Decoded[JobEvent]:
        item = parse(adapter, event.data)
        return Decoded(item, complete=item.type in FINAL)

    return decode


def moment(time: datetime | None) -> str | None:
    """A time as the API takes it; one without zone is local."""
    return None if time is None else time.astimezone(UTC).isoformat()
