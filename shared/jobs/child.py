"""The process of a job: waits for work from its worker, runs the handler, says how it went.

Everything it writes goes through the worker, which holds the lease. It dies with its worker: by its
guard, by the end of the socket, or when no word of a renewed lease comes.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from shared import telemetry
from shared.identity import Principal
from shared.jobs.context import Interrupted, JobContext, Surroundings
from shared.jobs.frames import Channel, FrameTooLarge, Message, encode
from shared.jobs.handlers import HandlerSpec, load_handlers
from shared.jobs.problems import HandlerError, MemoryLimitExceeded, ResultInvalid, worth_retrying
from shared.problems import Problem

REPORT_SECONDS = 0.05
FLUSH_SECONDS = 0.25
RESULT_BYTES = 1 << 20
DETAIL_LENGTH = 1000
LAST_WORDS_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class LogOptions:
    """How this process logs: as its worker does."""

    log_level: str
    log_format: str
    otel_endpoint: str | None


class WorkerLine:
    """The line of the running attempt to the worker."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._lock = threading.Lock()
        self._waiting: dict[str, Any] | None = None
        self._sent_at = 0.0
        self._numbers = {"report": 0, "checkpoint": 0}
        self._saved = threading.Condition()
        self._last_saved = 0
        self.stop_reason: str | None = None

    def report(self, progress: float, message: str | None, metrics: Mapping[str, Any]) -> None:
        with self._lock:
            merged = {**self._waiting["metrics"], **metrics} if self._waiting else dict(metrics)
            self._waiting = {"progress": progress, "message": message, "metrics": merged}
            if time.monotonic() - self._sent_at >= REPORT_SECONDS:
                self._send_waiting()

    def flush(self) -> None:
        """Send a report that was held back."""
        with self._lock:
            self._send_waiting()

    def _send_waiting(self) -> None:
        if self._waiting is None:
            return
        self._numbers["report"] += 1
        waiting, self._waiting = self._waiting, None
        self._sent_at = time.monotonic()
        self._channel.send({"type": "report", "number": self._numbers["report"], **waiting})

    def save(self, state: Mapping[str, Any]) -> None:
        self.flush()
        with self._lock:
            self._numbers["checkpoint"] += 1
            number = self._numbers["checkpoint"]
            self._channel.send({"type": "checkpoint", "number": number, "state": dict(state)})
        with self._saved:
            self._saved.wait_for(lambda: self._last_saved >= number)

    def saved(self, number: int) -> None:
        """The worker has made a checkpoint durable."""
        with self._saved:
            self._last_saved = number
            self._saved.notify_all()


class JobProcess:
    """This process: one thread listens to the worker, the main thread runs handlers."""

    def __init__(self, channel: Channel, init: Message) -> None:
        self._channel = channel
        self._handlers = load_handlers(init["modules"])
        self._surroundings = Surroundings(**init["surroundings"])
        self._inbox: queue.Queue[Message] = queue.Queue()
        self._line: WorkerLine | None = None
        # Until when the running job is ours; an idle process has nothing to lose.
        self._alive_until = float("inf")
        for spec in self._handlers.values():
            if spec.pool in init["pools"]:
                spec.function()

    def run(self) -> None:
        """Serve jobs until the worker says enough."""
        threading.Thread(target=self._listen, name="worker-line", daemon=True).start()
        threading.Thread(target=self._watch, name="lease-watch", daemon=True).start()
        self._channel.send({"type": "ready"})
        while (message := self._inbox.get())["type"] == "run":
            end = self._attempt(message)
            self._alive_until = float("inf")
            self._channel.send({"type": "end", **end})

    def _listen(self) -> None:
        while (message := self._channel.receive()) is not None:
            kind, line = message["type"], self._line
            if kind == "run":
                self._alive_until = time.monotonic() + float(message["lease_seconds"])
                self._line = WorkerLine(self._channel)
                self._inbox.put(message)
            elif kind == "exit":
                self._inbox.put(message)
            elif kind == "lease" and self._alive_until != float("inf"):
                self._alive_until = time.monotonic() + float(message["seconds"])
            elif line is not None and kind == "stop":
                line.stop_reason = line.stop_reason or str(message["reason"])
            elif line is not None and kind == "saved":
                line.saved(message["number"])
        _die()

    def _watch(self) -> None:
        while True:
            time.sleep(FLUSH_SECONDS)
            if time.monotonic() > self._alive_until:
                _die_with_a_word("no word of a renewed lease; the worker is frozen or gone")
            if self._line is not None:
                self._line.flush()

    def _attempt(self, message: Message) -> Message:
        assert self._line is not None
        line, spec = self._line, self._handlers[message["kind"]]
        _limit_memory(spec)
        principal = Principal(**{**message["principal"], "scopes": frozenset(message["principal"]["scopes"])})
        job = JobContext(
            id=message["id"],
            kind=message["kind"],
            attempt=message["attempt"],
            principal=principal,
            parameters=message["parameters"],
            dependencies=message["dependencies"],
            deadline=datetime.fromisoformat(message["deadline"]) if message["deadline"] else None,
            _saved=message["checkpoint"],
            _line=line,
            _surroundings=self._surroundings,
        )
        names = {"job_id": job.id, "kind": job.kind, "attempt": job.attempt, "tenant": job.tenant}
        try:
            with _traced(message["trace"]), telemetry.bound(**names):
                return outcome_of(spec, job)
        finally:
            line.flush()


@contextlib.contextmanager
def _traced(carrier: Mapping[str, str]) -> Iterator[None]:
    """Within, spans belong to the trace of the worker's span; nothing is loaded where there is none."""
    if not carrier:
        yield
        return
    from opentelemetry import context, propagate

    token = context.attach(propagate.extract(carrier))
    try:
        yield
    finally:
        context.detach(token)


def outcome_of(spec: HandlerSpec, job: JobContext) -> Message:
    """Run the handler; what the worker is told of the end."""
    try:
        result = call(spec, job)
        return {"outcome": "succeeded", "result": result}
    except Interrupted:
        return {"outcome": "interrupted"}
    except MemoryError:
        problem: Problem = MemoryLimitExceeded(
            f"The handler asked for more memory than its kind may use ({spec.memory_limit_bytes} bytes)."
        )
    except Problem as error:
        problem = error
    except SystemExit as error:
        problem = HandlerError(f"The handler called sys.exit({error.code!r}).")
    except Exception as error:
        _log_exception()
        problem = HandlerError(_sentence(error))
    after = problem.headers.get("Retry-After", "")
    return {
        "outcome": "failed",
        "problem": problem.document(
            instance=f"/v1/jobs/{job.id}", request_id=job.principal.request_id or None
        ),
        "final": isinstance(problem, ResultInvalid) or not worth_retrying(problem),
        "after": float(after) if after.isdigit() else None,
    }


def call(spec: HandlerSpec, job: JobContext) -> dict[str, Any]:
    """The handler's result.

    Raises:
        ResultInvalid: it is not a JSON object, or too large.
    """
    returned: Any = spec.function()(job)
    if inspect.isawaitable(returned):
        import asyncio

        async def wait() -> Any:
            return await returned

        returned = asyncio.run(wait())
    result = {} if returned is None else returned
    if not isinstance(result, Mapping):
        raise ResultInvalid(f"The handler returned {type(result).__name__}, not a JSON object.")
    try:
        size = len(encode(result))
    except (TypeError, FrameTooLarge) as error:
        raise ResultInvalid(f"The handler's result cannot be kept: {error}.") from None
    if size > RESULT_BYTES:
        raise ResultInvalid(
            f"The handler's result has {size} bytes, at most {RESULT_BYTES} are kept; "
            "put large results into the artifact store and return their sha256."
        )
    return dict(result)


def _log_exception() -> None:
    """Log the exception being handled."""
    # The logger is loaded only now, and the handler may have left too little memory or no file for that.
    with contextlib.suppress(Exception):
        telemetry.logger(__name__).exception("the handler raised")


def _sentence(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}"[:DETAIL_LENGTH]
    clean: str = telemetry.hide_secrets(None, "", {"detail": text})["detail"]
    return clean


def _limit_memory(spec: HandlerSpec) -> None:
    """A second fence beyond the worker's watch: a single huge allocation fails instead of swapping.

    RLIMIT_DATA counts writable private memory; twice the limit leaves room for what is reserved but unused.
    """
    _soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = 2 * spec.memory_limit_bytes
    resource.setrlimit(
        resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )


def _die() -> None:
    """End this process at once; the guard ends what is below it."""
    os.kill(os.getpid(), signal.SIGKILL)


def _die_with_a_word(sentence: str) -> None:
    """Say why and end this process at once: the job may run elsewhere by now."""
    # Not by the logger, which may have to be loaded, or be held by a thread that waits; nor may a full pipe
    # keep us.
    said = {"event": sentence, "level": "error", "service": "worker", "timestamp": datetime.now(UTC)}
    try:
        say = threading.Thread(target=os.write, args=(2, orjson.dumps(said) + b"\n"), daemon=True)
        say.start()
        say.join(LAST_WORDS_SECONDS)
    finally:
        _die()


def serve(descriptor: int) -> None:
    """Run jobs for the worker at the other end of the socket `descriptor`, until it says enough."""
    os.set_inheritable(descriptor, False)
    channel = Channel(socket.socket(fileno=descriptor))
    init = channel.receive()
    if init is None:
        return
    telemetry.configure_when_used("worker", LogOptions(**init["telemetry"]))
    process = JobProcess(channel, init)
    if "structlog" in sys.modules:
        telemetry.configure_now()
    # What has been loaded stays: no collection need look at it again.
    gc.freeze()
    gc.enable()
    process.run()
