"""A job from submit to its end, on both databases, with a real Redis and a real worker."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from shared.jobs import Jobs, JobSettings, JobState
from shared.jobs.testing import running_worker
from shared.principal import Principal
from tests.integration.jobs.conftest import submit, wait_for


async def test_a_job_runs_and_its_result_is_kept(
    settings: JobSettings, jobs: Jobs, principal: Principal
) -> None:
    queued = await submit(jobs, principal, "test.echo", parameters={"a": 1})
    assert (queued.state, queued.attempt, queued.progress) == (JobState.queued, 0, 0.0)
    async with running_worker(settings, ["test"]):
        done = await wait_for(jobs, principal, queued.id)
    assert done.state is JobState.succeeded
    assert done.result is not None
    assert done.result["parameters"] == {"a": 1}
    assert (done.attempt, done.progress) == (1, 1.0)
    assert done.finished_at is not None
    assert done.expires_at is not None
    assert done.expires_at > done.finished_at
    types = [event.type async for event in jobs.events(principal, queued.id)]
    assert types == ["queued", "started", "succeeded"]


async def test_a_worker_counts_what_it_does(settings: JobSettings, jobs: Jobs, principal: Principal) -> None:
    registry = CollectorRegistry()
    good = await submit(jobs, principal, "test.echo")
    bad = await submit(jobs, principal, "test.refuse")
    async with running_worker(settings, ["test"], registry=registry):
        for job in (good, bad):
            await wait_for(jobs, principal, job.id)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"latticework_{name}", labels)

    assert value("job_attempts_total", kind="test.echo", outcome="succeeded") == 1
    assert value("job_attempts_total", kind="test.refuse", outcome="failed") == 1
    assert value("job_failures_total", kind="test.refuse", code="bad_request", outcome="failed") == 1
    assert value("job_run_seconds_count", kind="test.echo") == 1
    assert value("job_wait_seconds_count", pool="test") == 2
    assert value("jobs_running_here") == 0
