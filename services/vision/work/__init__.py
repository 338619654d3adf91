"""The worker processes that touch image data, the messages they take and the pool that bounds them."""

from services.vision.work.pool import PoolBusyError, Reply, TaskError, TaskTimeoutError, WorkerPool
from services.vision.work.tasks import LegibilityJob, OverlayJob, ViewJob

__all__ = [
    "LegibilityJob",
    "OverlayJob",
    "PoolBusyError",
    "Reply",
    "TaskError",
    "TaskTimeoutError",
    "ViewJob",
    "WorkerPool",
]
