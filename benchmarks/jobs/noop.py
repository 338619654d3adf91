"""The kinds the benchmark runs: nothing at all, in a fresh process each or in a kept one."""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel

from shared.jobs import HandlerSpec, JobContext


class Nothing(BaseModel):
    """No parameters."""


def noop(job: JobContext) -> dict[str, Any]:
    """Say when it began."""
    return {"at": time.time()}


HANDLERS = {
    "bench.fresh": HandlerSpec(run=noop, pool="bench", parameters=Nothing, scope="admin"),
    "bench.kept": HandlerSpec(
        run=noop, pool="bench", parameters=Nothing, scope="admin", processes_jobs=1_000_000
    ),
}
