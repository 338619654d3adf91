"""The work that faults are injected into: steps that leave a trace, so that every repetition shows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from shared.jobs import HandlerSpec, JobContext

GRACE_SECONDS = 1.0
"""What a stubborn job is given between the request to stop and its end."""


class StepParameters(BaseModel):
    """How much to do, and where to write it down."""

    model_config = ConfigDict(extra="forbid")

    folder: str
    steps: int = 4
    pause: float = 0.3


def steps(job: JobContext) -> dict[str, Any]:
    """Do each step, checkpoint it, and at the end record one effect under the id of the job."""
    parameters = StepParameters.model_validate(job.parameters)
    folder = Path(parameters.folder)
    state = job.restore() or {"step": 0}
    while state["step"] < parameters.steps:
        step = state["step"]
        _note(folder / f"{job.id}.ledger", f"do {step} {job.attempt}")
        time.sleep(parameters.pause)
        job.report((step + 1) / parameters.steps, f"step {step}", step=step)
        state = {"step": step + 1}
        job.checkpoint(state)
        _note(folder / f"{job.id}.ledger", f"saved {step} {job.attempt}")
    _effect(folder / f"{job.id}.effect", folder / f"{job.id}.ledger")
    return {"steps": state["step"]}


def _note(path: Path, line: str) -> None:
    """Append in one write, so that lines of several attempts never mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def _effect(path: Path, ledger: Path) -> None:
    """An effect keyed by the job: done a second time it changes nothing, and is noted."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        _note(ledger, "effect-absorbed")


class StubbornParameters(BaseModel):
    """Where to write the process ids."""

    model_config = ConfigDict(extra="forbid")

    pids: str


def stubborn(job: JobContext) -> None:
    """Busy for ever, with a process of its own below it that has left the group."""
    below = subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    temporary = Path(f"{job.parameters['pids']}.part")
    temporary.write_text(f"{os.getpid()} {below.pid}")
    temporary.rename(job.parameters["pids"])
    while True:
        sum(range(1000))


class TalkParameters(BaseModel):
    """How much to say."""

    model_config = ConfigDict(extra="forbid")

    reports: int
    pause: float = 0.06


def talk(job: JobContext) -> None:
    """Report often."""
    parameters = TalkParameters.model_validate(job.parameters)
    for number in range(parameters.reports):
        job.report(number / parameters.reports, f"report {number}", number=number)
        time.sleep(parameters.pause)


HANDLERS = {
    "chaos.steps": HandlerSpec(
        run=steps,
        pool="chaos",
        parameters=StepParameters,
        scope="sql",
        max_attempts=5,
        backoff_s=0.2,
        processes_jobs=20,
    ),
    "chaos.stubborn": HandlerSpec(
        run=stubborn, pool="chaos", parameters=StubbornParameters, scope="sql", grace_s=GRACE_SECONDS
    ),
    "chaos.talk": HandlerSpec(run=talk, pool="chaos", parameters=TalkParameters, scope="sql"),
}
