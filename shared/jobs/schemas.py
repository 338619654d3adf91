"""What crosses the wire about jobs."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.problems import ProblemDocument

PRIORITY_LIMIT = 100
MAX_DEPENDENCIES = 100


class JobState(StrEnum):
    """queued -> running -> succeeded | failed | cancelled."""

    queued = "queued"
    running = "running"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens unless somebody asks for a retry."""
        return self in (JobState.succeeded, JobState.failed, JobState.cancelled)


class SubmitJob(BaseModel):
    """A request for work."""

    model_config = ConfigDict(extra="forbid")

    kind: str = Field(max_length=100, examples=["diagnostics.sleep"])
    parameters: dict[str, Any] = Field(default_factory=dict)
    priority: int = Field(0, ge=-PRIORITY_LIMIT, le=PRIORITY_LIMIT, description="higher starts earlier")
    not_before: AwareDatetime | None = Field(None, description="do not start earlier than this")
    deadline: AwareDatetime | None = Field(
        None, description="a job not finished by then ends as failed with the problem deadline_exceeded"
    )
    depends_on: list[str] = Field(
        default_factory=list,
        max_length=MAX_DEPENDENCIES,
        description="jobs that must succeed first; if one does not, this one fails",
    )
    timeout: float | None = Field(
        None, gt=0, description="seconds one attempt may run; at most what the kind allows"
    )


class JobSummary(BaseModel):
    """A job as a list shows it."""

    id: str
    kind: str
    pool: str
    state: JobState
    cancelling: bool = Field(description="a stop was asked for and the process is not gone yet")
    priority: int
    attempt: int = Field(description="how often it has been started")
    max_attempts: int = Field(description="attempts that may end badly without a checkpoint between them")
    progress: float = Field(ge=0, le=1)
    message: str | None
    metrics: dict[str, Any]
    problem: ProblemDocument | None
    depends_on: list[str]
    waiting_on: int = Field(description="jobs it depends on that have not succeeded yet")
    not_before: datetime | None
    deadline: datetime | None
    timeout: float
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="when the record is deleted")
    checkpoint_at: datetime | None


class Job(JobSummary):
    """A job in full."""

    parameters: dict[str, Any]
    result: dict[str, Any] | None


class JobEvent(BaseModel):
    """One thing that happened to a job; `sequence` counts from 1 without gaps."""

    job_id: str
    sequence: int
    type: str = Field(examples=["queued", "started", "progress", "checkpoint", "succeeded"])
    at: datetime
    data: dict[str, Any]


class JobKind(BaseModel):
    """What can be asked for."""

    kind: str
    pool: str
    scope: str
    description: str
    parameters: dict[str, Any] = Field(description="JSON Schema of the parameters")
    timeout: float
    memory_limit_bytes: int
    max_attempts: int


FINAL_EVENTS = frozenset({"succeeded", "failed", "cancelled"})
