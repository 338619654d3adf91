"""A job from submit to its end, on both databases, with a real Redis and a real worker."""

from __future__ import annotations

import json

import pytest
from prometheus_client import CollectorRegistry

from shared.jobs import Jobs, JobSettings, JobState
from shared.jobs.testing import running_worker
from shared.principal import Principal
from tests.integration.jobs.conftest import SettingsFactory, submit, wait_for


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


async def test_what_a_job_logs_says_whose_it_is_and_hides_secrets(
    make_settings: SettingsFactory, jobs: Jobs, principal: Principal, capfd: pytest.CaptureFixture[str]
) -> None:
    job = await submit(jobs, principal, "test.log")
    async with running_worker(make_settings(log_format="json"), ["test"]):
        await wait_for(jobs, principal, job.id)
    written = capfd.readouterr().err
    assert "hunter2" not in written
    lines = [json.loads(line) for line in written.splitlines() if line.startswith('{"')]
    said = {line["event"]: line for line in lines if line.get("job_id") == job.id}
    assert {"at redis://[hidden]@host", "it happened", "the handler raised"} <= said.keys()
    whose = {"kind": "test.log", "attempt": 1, "tenant": "acme", "service": "worker"}
    for line in said.values():
        assert whose.items() <= line.items()
    assert "KeyError" in said["the handler raised"]["exception"]
    assert any(line["event"] == "from a thread" for line in lines)
