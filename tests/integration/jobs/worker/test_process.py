"""The process of a job alone with its guard, without a worker."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from shared.jobs import JobSettings
from shared.jobs.child_process import ChildOptions, ChildProcess
from tests.conftest import SECRET
from tests.integration.jobs.conftest import MODULE


@asynccontextmanager
async def started(home: Path) -> AsyncIterator[ChildProcess]:
    """A process ready for a job."""
    values: dict[str, Any] = {"home": home, "principal_secret": SECRET, "jobs_modules": [MODULE]}
    child = await ChildProcess.start(ChildOptions(JobSettings(**values), ["test"]))
    try:
        yield child
    finally:
        await child.kill()


def run_message(kind: str, **changes: Any) -> dict[str, Any]:
    """What a worker sends to start a handler."""
    principal = {"key_id": "key_1", "tenant": "acme", "scopes": ["sql"], "request_id": "", "budget_id": None}
    return {
        "type": "run",
        "id": "job_1",
        "kind": kind,
        "attempt": 1,
        "principal": principal,
        "parameters": {},
        "dependencies": {},
        "deadline": None,
        "checkpoint": None,
        "trace": {},
        "lease_seconds": 20.0,
        **changes,
    }


async def test_a_process_without_word_of_its_lease_ends_itself_and_says_why(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with started(tmp_path) as child:
        begun = time.monotonic()
        await child.send(run_message("test.busy", lease_seconds=0.5))
        assert await child.wait() == -signal.SIGKILL
    # It looks four times a second, and has a tenth of one for its last words.
    assert 0.5 <= time.monotonic() - begun < 2.0
    (line,) = capfd.readouterr().err.splitlines()
    said = json.loads(line)
    assert (said["event"].startswith("no word of a renewed lease"), said["level"]) == (True, "error")


async def test_the_guard_is_small(tmp_path: Path) -> None:
    async with started(tmp_path) as child:
        guard = psutil.Process(child.pid)
        (job,) = guard.children()
        assert guard.memory_info().rss < 25 << 20
        assert job.memory_info().rss > guard.memory_info().rss + (10 << 20)


async def test_a_trace_is_continued(tmp_path: Path) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    carrier = {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
    for trace, expected in ((carrier, trace_id), ({}, "0" * 32)):
        async with started(tmp_path) as child:
            await child.send(run_message("test.trace", trace=trace))
            end = await child.receive()
            assert end is not None
            assert end["result"] == {"trace_id": expected}
