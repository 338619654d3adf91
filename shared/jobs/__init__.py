"""Queued work: job records in SQL, announcements in Redis, handlers in processes of their own.

A service declares kinds (`HandlerSpec`), mounts `jobs_router` and submits through `Jobs`; a worker
(`python -m shared.jobs.worker --pool NAME`) runs them. See docs/jobs.md.

Names are imported when first used: the process of a job needs three of them, and neither SQLAlchemy
nor FastAPI, and it is started often.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.jobs.client import Jobs
    from shared.jobs.context import Interrupted, JobContext
    from shared.jobs.handlers import Handlers, HandlerSpec, load_handlers
    from shared.jobs.routes import accepted, all_jobs_router, jobs_router
    from shared.jobs.schemas import Job, JobEvent, JobKind, JobState, JobSummary, SubmitJob
    from shared.jobs.settings import JobSettings

_HOMES = {
    "Jobs": "client",
    "Interrupted": "context",
    "JobContext": "context",
    "Handlers": "handlers",
    "HandlerSpec": "handlers",
    "load_handlers": "handlers",
    "accepted": "routes",
    "all_jobs_router": "routes",
    "jobs_router": "routes",
    "Job": "schemas",
    "JobEvent": "schemas",
    "JobKind": "schemas",
    "JobState": "schemas",
    "JobSummary": "schemas",
    "SubmitJob": "schemas",
    "JobSettings": "settings",
}

__all__ = [
    "HandlerSpec",
    "Handlers",
    "Interrupted",
    "Job",
    "JobContext",
    "JobEvent",
    "JobKind",
    "JobSettings",
    "JobState",
    "JobSummary",
    "Jobs",
    "SubmitJob",
    "accepted",
    "all_jobs_router",
    "jobs_router",
    "load_handlers",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
