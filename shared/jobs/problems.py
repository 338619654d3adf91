"""How a job can end badly."""

from __future__ import annotations

import signal

from shared.problems import (
    Conflict,
    DeadlineExceeded,
    InternalError,
    NotFound,
    Problem,
    ServiceUnavailable,
    Unprocessable,
)

RETRIED_STATUS = frozenset({408, 429})


class JobNotFound(NotFound):
    code, title = "job_not_found", "There is no such job"


class JobFinished(Conflict):
    code, title = "job_finished", "The job is over"


class JobNotRetryable(Conflict):
    code, title = "job_not_retryable", "The job cannot be run again now"


class HandlerError(InternalError):
    code, title = "handler_error", "The handler raised an error"


class HandlerCrashed(InternalError):
    code, title = "handler_crashed", "The process of the attempt died"


class HandlerKilled(InternalError):
    code, title = "handler_killed", "The process of the attempt was killed from outside"


class HandlerExited(InternalError):
    code, title = "handler_exited", "The process of the attempt ended without a result"


class MemoryLimitExceeded(InternalError):
    code, title = "memory_limit_exceeded", "The attempt used more memory than its kind may"


class ResultInvalid(InternalError):
    code, title = "result_invalid", "The handler's result cannot be kept"


class AttemptTimeout(DeadlineExceeded):
    code, title = "timeout", "The attempt ran longer than it may"


class WorkerLost(ServiceUnavailable):
    code, title = "worker_lost", "The worker that ran the job went away"


class DependencyFailed(Unprocessable):
    code, title = "dependency_failed", "A job this one depends on did not succeed"


def worth_retrying(problem: Problem) -> bool:
    """Whether another attempt may go better: not where the request itself is at fault."""
    return problem.status >= 500 or problem.status in RETRIED_STATUS


def died(exit_code: int) -> Problem:
    """The problem of a process that ended by itself before it gave a result."""
    if exit_code >= 0:
        return HandlerExited(
            f"The handler's process ended with status {exit_code} before it returned; "
            "something in it called exit."
        )
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    if -exit_code == signal.SIGKILL:
        return HandlerKilled(
            "The handler's process was killed with SIGKILL by somebody else; the kernel does that when "
            "the machine runs out of memory."
        )
    return HandlerCrashed(f"The handler's process died of {name}; the worker's log has its last words.")
