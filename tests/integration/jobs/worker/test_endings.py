"""Every way an attempt can end, with the problem that says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from shared.jobs import Jobs, JobState
from shared.jobs.supervisor import Supervisor
from shared.principal import Principal
from tests.integration.jobs.conftest import submit, wait_for, wait_until

BAD_ENDS: dict[str, tuple[str, int, str, dict[str, Any]]] = {
    # kind: (code, attempts, a word of the detail, parameters)
    "test.segfault": ("handler_crashed", 3, "SIGSEGV", {}),
    "test.exit": ("handler_exited", 1, "status 7", {}),
    "test.killed": ("handler_killed", 1, "SIGKILL", {}),
    "test.eat": ("memory_limit_exceeded", 1, "memory", {}),
    "test.gulp": ("memory_limit_exceeded", 1, "memory", {}),
    "test.short": ("timeout", 1, "longer than 1 s", {}),
    "test.refuse": ("bad_request", 1, "no rows", {}),
    "test.stumble": ("handler_error", 3, "ConnectionError", {"times": 99}),
    "test.list_result": ("result_invalid", 1, "list", {}),
    "test.huge_result": ("result_invalid", 1, "bytes", {}),
}


async def test_every_bad_end_names_its_problem(jobs: Jobs, principal: Principal, worker: Supervisor) -> None:
    submitted = {
        kind: await submit(jobs, principal, kind, parameters=parameters)
        for kind, (_, _, _, parameters) in BAD_ENDS.items()
    }
    for kind, (code, attempts, word, _) in BAD_ENDS.items():
        job = await wait_for(jobs, principal, submitted[kind].id)
        assert job.state is JobState.failed, kind
        assert job.problem is not None, kind
        assert (job.problem.code, job.attempt) == (code, attempts), (kind, job.problem)
        assert word in job.problem.detail, (kind, job.problem.detail)
        assert job.problem.instance == f"/v1/jobs/{job.id}"
        assert job.problem.request_id == "req_1"
        assert "hunter2" not in job.problem.detail


async def test_a_crash_ends_that_attempt_only(
    jobs: Jobs, principal: Principal, worker: Supervisor, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    crashing = await submit(jobs, principal, "test.segfault", parameters={"times": 1, "pids": str(pids)})
    stumbling = await submit(jobs, principal, "test.stumble", parameters={"times": 2})
    steady = await submit(jobs, principal, "test.echo")
    assert (await wait_for(jobs, principal, crashing.id)).state is JobState.succeeded
    assert (await wait_for(jobs, principal, steady.id)).attempt == 1
    job = await wait_for(jobs, principal, stumbling.id)
    assert (job.state, job.result) == (JobState.succeeded, {"attempt": 3})
    types = [event.type async for event in jobs.events(principal, crashing.id)]
    assert types == ["queued", "started", "retrying", "started", "succeeded"]
    assert len(pids.read_text().split()) == 4, "both attempts noted themselves and the process below them"
    await wait_until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids.read_text().split()), 5)


async def test_good_ends(jobs: Jobs, principal: Principal, worker: Supervisor) -> None:
    first = await submit(jobs, principal, "test.echo_async", parameters={"n": 1})
    second = await submit(jobs, principal, "test.lazy", parameters={"n": 2}, depends_on=[first.id])
    large = await submit(jobs, principal, "test.large_state")
    orphans = await submit(jobs, principal, "test.orphans")
    second = await wait_for(jobs, principal, second.id)
    assert second.result is not None
    assert second.result["dependencies"] == {first.id: {"parameters": {"n": 1}}}
    large = await wait_for(jobs, principal, large.id)
    assert (large.result, large.attempt) == ({"length": 200_000}, 2)
    orphans = await wait_for(jobs, principal, orphans.id)
    assert orphans.result is not None
    left_behind = orphans.result["pid"]
    await wait_until(lambda: not psutil.pid_exists(left_behind), 5)


async def test_processes_are_fresh_unless_the_kind_says_otherwise(
    jobs: Jobs, principal: Principal, worker: Supervisor
) -> None:
    fresh = [await submit(jobs, principal, "test.echo") for _ in range(3)]
    pids = {(await wait_for(jobs, principal, job.id)).result["pid"] for job in fresh}  # type: ignore[index]
    assert len(pids) == 3
    other = Principal(key_id="key_2", tenant="other", scopes=frozenset({"sql"}))
    seen: dict[str, set[int]] = {"acme": set(), "other": set()}
    for _ in range(4):
        for caller in (principal, other):
            job = await submit(jobs, caller, "test.reused")
            result = (await wait_for(jobs, caller, job.id)).result
            assert result is not None
            seen[caller.tenant].add(result["pid"])
    assert not seen["acme"] & seen["other"], "one process has seen two tenants"
    alone = [await submit(jobs, principal, "test.reused") for _ in range(10)]
    reused = {(await wait_for(jobs, principal, job.id)).result["pid"] for job in alone}  # type: ignore[index]
    assert len(reused) <= 4


async def test_reports_become_events_and_the_last_one_stands(
    jobs: Jobs, principal: Principal, worker: Supervisor
) -> None:
    job = await submit(jobs, principal, "test.report", parameters={"count": 10})
    job = await wait_for(jobs, principal, job.id)
    events = [event async for event in jobs.events(principal, job.id)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    progress = [event for event in events if event.type == "progress"]
    assert [event.data["message"] for event in progress] == [f"step {step}" for step in range(10)]
    assert progress[3].data["metrics"] == {"loss": 0.25}
    assert (job.message, job.metrics) == ("step 9", {"loss": 0.1})
    flood = await submit(jobs, principal, "test.report", parameters={"count": 5000, "pause": 0.0})
    flood = await wait_for(jobs, principal, flood.id)
    progress = [event async for event in jobs.events(principal, flood.id) if event.type == "progress"]
    assert len(progress) < 200
    assert progress[-1].data["message"] == "step 4999"
