"""Two kinds for operators and tests: one that waits, one that computes and saves its way. Admin only."""

from __future__ import annotations

import time
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shared.identity import ADMIN
from shared.jobs.context import Interrupted, JobContext
from shared.jobs.handlers import HandlerSpec

TICK_SECONDS = 0.1


class SleepParameters(BaseModel):
    """How long to wait."""

    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(1.0, ge=0, le=86_400)


class CpuParameters(BaseModel):
    """How much to compute."""

    model_config = ConfigDict(extra="forbid")

    steps: int = Field(10, ge=1, le=1_000_000)
    step_seconds: float = Field(0.1, ge=0, le=60, description="busy time of one step")


def sleep(job: JobContext) -> dict[str, Any]:
    """Wait, saying how much of it is over; a stop is obeyed within a tick."""
    seconds = SleepParameters.model_validate(job.parameters).seconds
    begun = time.monotonic()
    while (past := time.monotonic() - begun) < seconds:
        job.report(past / seconds, f"{past:.1f} of {seconds:g} s")
        if job.should_stop():
            raise Interrupted
        time.sleep(min(TICK_SECONDS, seconds - past))
    return {"slept_s": time.monotonic() - begun}


def cpu(job: JobContext) -> dict[str, Any]:
    """Steps of busy work, a checkpoint after each: the sum of a linear congruential sequence."""
    parameters = CpuParameters.model_validate(job.parameters)
    state = job.restore() or {"step": 0, "value": 1, "iterations": 0}
    while state["step"] < parameters.steps:
        value, iterations = _burn(state["value"], parameters.step_seconds)
        state = {
            "step": state["step"] + 1,
            "value": value,
            "iterations": state["iterations"] + iterations,
        }
        job.report(state["step"] / parameters.steps, f"step {state['step']}", iterations=state["iterations"])
        job.checkpoint(state)
    return {"steps": state["step"], "iterations": state["iterations"], "attempts": job.attempt}


def _burn(value: int, seconds: float) -> tuple[int, int]:
    end = time.perf_counter() + seconds
    iterations = 0
    while time.perf_counter() < end:
        for _ in range(1000):
            value = (value * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        iterations += 1000
    return value, iterations


HANDLERS = {
    "diagnostics.sleep": HandlerSpec(
        run=sleep,
        pool="diagnostics",
        parameters=SleepParameters,
        scope=ADMIN,
        timeout_s=86_400,
        memory_limit_bytes=512 << 20,
        description="Waits; shows that the queue moves.",
    ),
    "diagnostics.cpu": HandlerSpec(
        run=cpu,
        pool="diagnostics",
        parameters=CpuParameters,
        scope=ADMIN,
        timeout_s=86_400,
        memory_limit_bytes=512 << 20,
        description="Computes in steps with a checkpoint after each; shows resumption.",
    ),
}
