"""Kinds of work that behave in the ways the queue has to cope with. Imported by workers under test."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from shared.jobs import HandlerSpec, Interrupted, JobContext
from shared.problems import BadRequest


class Anything(BaseModel):
    """Free parameters."""

    model_config = ConfigDict(extra="allow")


def echo(job: JobContext) -> dict[str, Any]:
    """Give back what came in."""
    return {"parameters": job.parameters, "dependencies": job.dependencies, "pid": os.getpid()}


async def echo_async(job: JobContext) -> dict[str, Any]:
    """The same as a coroutine."""
    return {"parameters": job.parameters}


def report(job: JobContext) -> None:
    """Many reports, then nothing."""
    for step in range(job.parameters["count"]):
        job.report(step / job.parameters["count"], f"step {step}", loss=1.0 / (step + 1))
        time.sleep(job.parameters.get("pause", 0.06))


def count(job: JobContext) -> dict[str, Any]:
    """Steps with a checkpoint after each; every step leaves a line in the ledger."""
    state = job.restore() or {"step": 0}
    ledger = Path(job.parameters["ledger"])
    while state["step"] < job.parameters["steps"]:
        with ledger.open("a") as sink:
            sink.write(f"{state['step']} {job.attempt} {os.getpid()}\n")
        time.sleep(job.parameters.get("pause", 0.1))
        state["step"] += 1
        job.checkpoint(state)
    return {"steps": state["step"], "attempt": job.attempt}


def large_state(job: JobContext) -> dict[str, Any]:
    """A checkpoint too large for the record; the first attempt fails after it."""
    saved = job.restore()
    if saved is None:
        job.checkpoint({"filler": "x" * 200_000})
        raise RuntimeError("after the checkpoint")
    return {"length": len(saved["filler"])}


def start_below() -> subprocess.Popen[bytes]:
    """A process below the job that has left its process group, as torchrun's ranks do."""
    code = "import time; time.sleep(600)"
    return subprocess.Popen([sys.executable, "-S", "-c", code], start_new_session=True)


def busy(job: JobContext) -> None:
    """A loop that never looks up, with a process of its own below it."""
    if "pids" in job.parameters:
        Path(job.parameters["pids"]).write_text(f"{os.getpid()} {start_below().pid}")
    while True:
        sum(range(1000))


def segfault(job: JobContext) -> None:
    """Read at address zero, in the first attempts only."""
    if "pids" in job.parameters:
        with Path(job.parameters["pids"]).open("a") as sink:
            sink.write(f"{os.getpid()} {start_below().pid}\n")
    if job.attempt <= job.parameters.get("times", 99):
        ctypes.string_at(0)


def leave(job: JobContext) -> None:
    """End the process without a word."""
    os._exit(job.parameters.get("status", 7))


def killed(job: JobContext) -> None:
    """What the kernel's OOM killer does."""
    os.kill(os.getpid(), signal.SIGKILL)


def eat(job: JobContext) -> None:
    """Use more and more memory."""
    eaten = []
    while True:
        eaten.append(bytearray(os.urandom(1 << 20) * 4))
        time.sleep(0.01)


def gulp(job: JobContext) -> None:
    """Ask for far too much memory at once."""
    bytearray(8 << 30)


def refuse(job: JobContext) -> None:
    """A bad request found late."""
    raise BadRequest("The data set has no rows.")


def stumble(job: JobContext) -> dict[str, Any]:
    """Fail in the first attempts."""
    if job.attempt <= job.parameters["times"]:
        raise ConnectionError(f"no answer from redis://:hunter2@example.org in attempt {job.attempt}")
    return {"attempt": job.attempt}


def polite(job: JobContext) -> None:
    """Work without checkpoints that looks up."""
    Path(job.parameters["started"]).write_text("yes")
    while not job.should_stop():
        time.sleep(0.02)
    Path(job.parameters["started"]).write_text(str(job.stop_reason))
    raise Interrupted


def list_result(job: JobContext) -> Any:
    """Not an object."""
    return [1, 2]


def huge_result(job: JobContext) -> dict[str, str]:
    """Too large to keep."""
    return {"text": "x" * (2 << 20)}


def leave_orphans(job: JobContext) -> dict[str, int]:
    """Return while a process it started goes on."""
    return {"pid": start_below().pid}


def log(job: JobContext) -> None:
    """Write to the log in the ways there are, also from a thread, then fail."""
    logging.getLogger("plain").warning("at redis://:hunter2@host")
    from shared.telemetry import logger

    logger("ours").info("it happened", password="hunter2")
    thread = threading.Thread(target=lambda: logging.getLogger("plain").error("from a thread"))
    thread.start()
    thread.join()
    raise KeyError("unknown")


def trace_of(job: JobContext) -> dict[str, str]:
    """The trace this handler's spans would belong to."""
    from opentelemetry import trace

    return {"trace_id": f"{trace.get_current_span().get_span_context().trace_id:032x}"}


def _spec(run: Any, **options: Any) -> HandlerSpec:
    defaults: dict[str, Any] = {"backoff_s": 0.05, "timeout_s": 60.0, "memory_limit_bytes": 300 << 20}
    return HandlerSpec(run=run, pool="test", parameters=Anything, scope="sql", **{**defaults, **options})


HANDLERS = {
    "test.echo": _spec(echo),
    "test.echo_async": _spec(echo_async),
    "test.reused": _spec(echo, processes_jobs=100),
    "test.report": _spec(report),
    "test.count": _spec(count, max_attempts=5),
    "test.large_state": _spec(large_state),
    "test.busy": _spec(busy, grace_s=0.5),
    "test.short": _spec(busy, grace_s=0.2, timeout_s=1.0),
    "test.segfault": _spec(segfault),
    "test.exit": _spec(leave, max_attempts=1),
    "test.killed": _spec(killed, max_attempts=1),
    "test.eat": _spec(eat, max_attempts=1, memory_limit_bytes=150 << 20),
    "test.gulp": _spec(gulp, max_attempts=1, memory_limit_bytes=500 << 20),
    "test.refuse": _spec(refuse),
    "test.stumble": _spec(stumble),
    "test.polite": _spec(polite),
    "test.list_result": _spec(list_result),
    "test.huge_result": _spec(huge_result),
    "test.orphans": _spec(leave_orphans),
    "test.log": _spec(log, max_attempts=1),
    "test.trace": _spec(trace_of),
    "test.lazy": _spec("tests.integration.jobs.kinds:echo"),
}
