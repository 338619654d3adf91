# Generated from latticework/_async/resources/jobs.py by sdk/generate.py; do not edit.
"""Queued work: submit, follow, wait, cancel, retry; whichever room of the suite owns it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

from latticework._calls import create, get, path_of, post
from latticework._exceptions import ServerError, TransportError, WaitTimeout
from latticework._jobs import FOLLOWING, POLL_SECONDS, JobEvent, check_outcome, is_final, job_events, moment
from latticework._sync._io import sleep
from latticework._sync._paging import Pages
from latticework._sync._streaming import Stream
from latticework._sync.resources._resource import Resource
from latticework.models import Job, JobKind, JobSummary

PATH = "/v1/jobs"
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class Jobs(Resource):
    """`client.jobs`."""

    def submit(
        self,
        kind: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        priority: int | None = None,
        not_before: datetime | None = None,
        deadline: datetime | None = None,
        depends_on: Sequence[str] | None = None,
        timeout: float | None = None,
        path: str = PATH,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue work of a kind.

        Args:
            priority: -100 to 100, higher starts earlier.
            depends_on: ids of jobs that must succeed first.
            timeout: seconds one attempt may run.
            path: where the kind is submitted, such as `/v1/sql/evaluations`.
        """
        body = {
            "kind": kind,
            "parameters": dict(parameters or {}),
            "priority": priority,
            "not_before": moment(not_before),
            "deadline": moment(deadline),
            "depends_on": list(depends_on) if depends_on is not None else None,
            "timeout": timeout,
        }
        return self._client.fetch(create(path, body, idempotency_key), Job)

    def get(self, job_id: str) -> Job:
        """A job as it is now."""
        return self._client.fetch(get(path_of("/v1/jobs/{}", job_id)), Job)

    def list(
        self,
        *,
        state: State | Sequence[State] | None = None,
        kind: str | Sequence[str] | None = None,
        page_size: int | None = None,
    ) -> Pages[JobSummary]:
        """Jobs, newest first."""
        call = get(PATH, state=state, kind=kind, limit=page_size)
        return Pages(self._client, call, JobSummary)

    def kinds(self) -> Pages[JobKind]:
        """What can be submitted."""
        return Pages(self._client, get("/v1/jobs/kinds"), JobKind)

    def cancel(self, job_id: str) -> Job:
        """Ask for a stop; the job is `cancelling` until its process is gone."""
        return self._client.fetch(post(path_of("/v1/jobs/{}/cancel", job_id), replayable=True), Job)

    def retry(self, job_id: str) -> Job:
        """Queue a failed or cancelled job again; it goes on from its last checkpoint."""
        return self._client.fetch(post(path_of("/v1/jobs/{}/retry", job_id)), Job)

    def events(self, job_id: str, *, after: int = 0) -> Stream[JobEvent]:
        """What happens to the job, from event `after` + 1 to its end.

        A broken connection is taken up again where it broke: no event is missed, none comes twice.
        """
        return Stream(
            self._client,
            get(path_of("/v1/jobs/{}/events", job_id)),
            job_events(),
            reconnect=FOLLOWING,
            last_event_id=str(after) if after else None,
        )

    def wait(
        self,
        job_id: str,
        *,
        timeout: float | None = None,
        progress: Callable[[Job], object] | None = None,
        check: bool = True,
    ) -> Job:
        """Wait for the end of a job.

        Args:
            timeout: seconds to wait at most; the job goes on when they are over.
            progress: called with the job whenever it has changed.
            check: raise when the job did not succeed.

        Raises:
            JobFailed, JobCancelled: how it ended, when `check` is set.
            WaitTimeout: it had not ended in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        seen: Job | None = None
        failures = 0
        while True:
            try:
                job = self.get(job_id)
            except (TransportError, ServerError):
                # A suite that restarts is back in seconds, and the job does not depend on it.
                pause = FOLLOWING.delay(failures)
                if pause is None:
                    raise
                failures += 1
            else:
                failures, pause = 0, POLL_SECONDS
                if progress is not None and job != seen:
                    progress(job)
                seen = job
                if is_final(job):
                    return check_outcome(job) if check else job
            if deadline is not None and (left := deadline - time.monotonic()) < pause:
                if left <= 0 and seen is not None:
                    raise WaitTimeout(f"Job {job_id} is still {seen.state} after {timeout:g} s.", seen)
                pause = max(left, 0.01)
            sleep(pause)
