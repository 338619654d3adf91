"""The small parts of the queue alone."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from prometheus_client import CollectorRegistry

import shared.jobs
from shared.jobs.attempt import _submit_links
from shared.jobs.backoff import backoff_seconds
from shared.jobs.client import _trace_parent
from shared.jobs.frames import FRAME_LIMIT, Channel, FrameTooLarge, encode, read
from shared.jobs.metrics import QueueMetrics
from shared.jobs.problems import (
    AttemptTimeout,
    HandlerCrashed,
    HandlerExited,
    HandlerKilled,
    died,
    worth_retrying,
)
from shared.jobs.process_tree import descendants, kill_tree, resident_bytes
from shared.jobs.routes import server_sent
from shared.jobs.schemas import JobEvent, JobState
from shared.jobs.tasks import end_tasks
from shared.jobs.transport import Announcement
from shared.jobs.upkeep import PoolDepth
from shared.problems import BadRequest, TooManyRequests

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_every_exported_name_is_there() -> None:
    for name in shared.jobs.__all__:
        assert getattr(shared.jobs, name) is not None
    assert sorted(shared.jobs._HOMES) == sorted(shared.jobs.__all__)
    with pytest.raises(AttributeError):
        _ = shared.jobs.nothing


UNWANTED = {
    *("fastapi", "sqlalchemy", "redis", "alembic", "httpx", "pydantic_settings", "psutil", "uvloop"),
    *("structlog", "rich", "opentelemetry", "asyncio"),
}
"""What the process of a job has no use for, or uses only in some jobs."""


@pytest.mark.parametrize(
    ("imports", "unwanted"),
    [
        ("shared.jobs.launch", UNWANTED | {"pydantic", "orjson", "shared.jobs.child"}),
        ("shared.jobs.child, shared.jobs.diagnostics", UNWANTED),
    ],
)
def test_the_process_of_a_job_loads_only_what_it_needs(imports: str, unwanted: set[str]) -> None:
    code = f"import sys, {imports}; print(sorted({unwanted!r} & sys.modules.keys()))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@given(st.integers(1, 200), st.floats(0.01, 10), st.floats(10, 1000))
def test_backoff_doubles_up_to_its_limit_and_is_half_random(failures: int, base: float, limit: float) -> None:
    full = min(limit, base * 2.0 ** min(failures - 1, 60))
    assert full * 0.5 <= backoff_seconds(failures, base, limit) <= full


@given(st.integers(-100, 100), st.integers(-100, 100), st.integers(0, 10**9), st.integers(0, 10**9))
def test_rank_decides_before_age(rank: int, other_rank: int, age: int, other_age: int) -> None:
    one = Announcement("a", "p", rank, NOW - timedelta(seconds=age))
    other = Announcement("b", "p", other_rank, NOW - timedelta(seconds=other_age))
    if rank != other_rank:
        assert (one.score < other.score) == (rank < other_rank)
    elif age != other_age:
        assert (one.score < other.score) == (age > other_age)


@pytest.mark.parametrize(
    ("code", "kind", "word"),
    [
        (-signal.SIGSEGV, HandlerCrashed, "SIGSEGV"),
        (-signal.SIGABRT, HandlerCrashed, "SIGABRT"),
        (-signal.SIGKILL, HandlerKilled, "runs out of memory"),
        (3, HandlerExited, "status 3"),
        (0, HandlerExited, "status 0"),
    ],
)
def test_a_dead_process_says_how(code: int, kind: type, word: str) -> None:
    problem = died(code)
    assert type(problem) is kind
    assert word in problem.detail


def test_only_what_may_go_better_is_retried() -> None:
    assert worth_retrying(died(-11))
    assert worth_retrying(AttemptTimeout())
    assert worth_retrying(TooManyRequests())
    assert not worth_retrying(BadRequest())


def test_states_that_are_over() -> None:
    assert {state for state in JobState if state.is_final} == {"succeeded", "failed", "cancelled"}


async def test_frames_arrive_whole_whatever_the_pieces() -> None:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    channel = Channel(theirs)
    message = {"type": "report", "text": "ü" * 100_000, "n": [1, 2.5, None]}
    data = encode(message)
    for start in range(0, len(data), 9999):
        writer.write(data[start : start + 9999])
        await writer.drain()
    assert await asyncio.to_thread(channel.receive) == message
    channel.send({"type": "ready"})
    assert await read(reader) == {"type": "ready"}
    theirs.close()
    assert await read(reader) is None
    writer.close()


async def test_frames_have_a_limit() -> None:
    with pytest.raises(FrameTooLarge):
        encode({"x": "y" * FRAME_LIMIT})
    reader = asyncio.StreamReader()
    reader.feed_data(b"\xff\xff\xff\xff")
    with pytest.raises(FrameTooLarge):
        await read(reader)


def test_a_tree_of_processes_is_found_weighed_and_felled() -> None:
    code = (
        "import subprocess, sys, time; sleep = 'import time; time.sleep(60)';"
        "subprocess.Popen([sys.executable, '-S', '-c', sleep], start_new_session=True);"
        "print('up', flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    assert parent.stdout is not None
    with parent, parent.stdout:
        assert parent.stdout.readline() == b"up\n"
        (child,) = descendants(parent.pid)
        alone = resident_bytes(child)
        assert 0 < alone < resident_bytes(parent.pid)
        kill_tree(parent.pid)
        assert parent.wait(5) == -signal.SIGKILL
        for _ in range(100):
            if not resident_bytes(child):
                return
            time.sleep(0.05)
        os.kill(child, signal.SIGKILL)
        pytest.fail("a process that had left the group was not killed")


async def test_tasks_end_even_if_they_swallow_the_first_cancellation() -> None:
    async def deaf() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(60)

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await end_tasks([task])
    assert task.cancelled()


def test_the_run_is_linked_to_the_submit() -> None:
    assert _trace_parent() is None
    context = trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        parent = _trace_parent()
    assert parent is not None
    (link,) = _submit_links(parent)
    assert (link.context.trace_id, link.context.span_id) == (0xABC, 0xDEF)
    assert _submit_links(None) == []


def test_gauges_fall_to_zero_when_a_pool_empties() -> None:
    registry = CollectorRegistry()
    metrics = QueueMetrics(registry)
    metrics.show([PoolDepth("training", 7, 2, 12.5)])
    assert registry.get_sample_value("latticework_jobs_queued", {"pool": "training"}) == 7
    assert registry.get_sample_value("latticework_jobs_oldest_seconds", {"pool": "training"}) == 12.5
    metrics.show([])
    assert registry.get_sample_value("latticework_jobs_queued", {"pool": "training"}) == 0


def test_events_on_the_wire() -> None:
    event = JobEvent(job_id="job_1", sequence=7, type="progress", at=NOW, data={"text": "a\nb"})
    lines = server_sent(event).decode().split("\n")
    assert lines[:2] == ["id: 7", "event: progress"]
    assert lines[2].startswith('data: {"job_id":"job_1"')
    assert lines[3:] == ["", ""], "a line break inside the data must not end the event"
