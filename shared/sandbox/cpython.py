"""The parent's half of the CPython runner: jobs to the forker, results back, nothing trusted.

What comes out of a child is bytes: cut at a cap, parsed as JSON, checked against a schema.
"""

import array
import contextlib
import json
import os
import selectors
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.sandbox.contract import (
    Cell,
    Limits,
    ProgramError,
    SandboxOutcome,
    SandboxUnavailable,
    Snapshot,
    Status,
)
from shared.sandbox.encoding import encoded

_FORKER = Path(__file__).with_name("forker.py")
_START_SECONDS = 60.0
_BACKSTOP_SECONDS = 5.0
_ERROR_BYTES = 2_048
_SINGLE_THREADED = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_LOCK_DOWN_FAILED = 70


class _Error(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: str
    message: str
    line: int | None


class _Report(BaseModel):
    """The only shape in which a child is believed."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    status: Status
    columns: list[str] = []
    rows: list[list[bool | int | float | str | None]] = []
    row_count: int = 0
    digest: str | None = None
    ordered: bool = False
    ties: list[list[bool | int | float | str | None]] = []
    error: _Error | None = None


class CPythonRunner:
    """Runs programs in forked, confined children of one warm forker; thread-safe."""

    name = "cpython"

    def __init__(
        self,
        *,
        frames: bool,
        landlock_required: bool,
        absent: frozenset[str] = frozenset(),
        guards: bool = True,
    ) -> None:
        """Start the forker. `absent` and `guards` are for tests: they take layers away."""
        self._config = {"frames": frames, "landlock_required": landlock_required, "absent": sorted(absent)}
        self._guards = guards
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self.layers: list[str] = []
        self._closed = False
        self._start()

    def wait_ready(self) -> None:
        """Block until the forker is warm. Raises SandboxUnavailable with what is missing."""
        with self._lock:
            self._ready()

    def run(
        self, program: str, data: Snapshot, limits: Limits, *, dialect: str, form: str, seed: int = 1
    ) -> SandboxOutcome:
        """One program in one child. Raises SandboxUnavailable."""
        content = encoded(data)
        snapshot, size = content.file()
        job = {
            "program": program,
            "limits": asdict(limits),
            "dialect": dialect,
            "form": form,
            "seed": seed,
            "snapshot_size": size,
            "guards": self._guards,
        }
        started = time.perf_counter()
        with contextlib.ExitStack() as stack:
            pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
            readers = [stack.enter_context(os.fdopen(read, "rb", buffering=0)) for read, _ in pipes]
            try:
                self._send(job, [snapshot, *(write for _, write in pipes)])
            finally:
                for _, write in pipes:
                    os.close(write)
            texts = self._collect([reader.fileno() for reader in readers], limits)
        return _outcome(texts, limits, time.perf_counter() - started)

    def close(self) -> None:
        """End the forker and whatever it runs."""
        with self._lock:
            self._closed = True
            self._stop()

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 512 * 1024)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_FORKER), str(theirs.fileno()), json.dumps(self._config)],
                pass_fds=[theirs.fileno()],
                env={**_SINGLE_THREADED, "PYTHONHASHSEED": "0"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
            )
        self._control = ours
        self.layers = []

    def _ready(self) -> socket.socket:
        """The control socket of a warm forker; under the lock."""
        if self._closed:
            raise SandboxUnavailable("the sandbox is closed")
        if self._process is None or self._process.poll() is not None:
            self._stop()
            self._start()
        control = self._control
        assert control is not None
        if not self.layers:
            control.settimeout(_START_SECONDS)
            try:
                message = json.loads(control.recv(64 * 1024) or b'{"error": "the forker ended at start"}')
            except (OSError, ValueError) as error:
                message = {"error": f"the forker did not start: {error}"}
            if "error" in message:
                self._stop()
                raise SandboxUnavailable(f"programs cannot be confined here: {message['error']}")
            self.layers = message["layers"]
        return control

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            if not self.layers:  # still importing: it would not look at its socket for a while
                self._process.kill()
            try:
                self._process.wait(timeout=2.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = self._control = None
        self.layers = []

    def _send(self, job: dict[str, Any], descriptors: list[int]) -> None:
        message = json.dumps(job, ensure_ascii=False).encode("utf-8", "surrogatepass")
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        for attempt in (1, 2):
            with self._lock:
                try:
                    self._ready().sendmsg([message], rights)
                    return
                except OSError as error:
                    self._stop()
                    if attempt == 2:
                        raise SandboxUnavailable(f"the forker ended: {error}") from None

    def _collect(self, descriptors: list[int], limits: Limits) -> list[bytes]:
        """What came through the result, error and exit pipes, each up to its cap plus one byte.

        Reads on past a cap without keeping, so that a talkative child ends by its own limits.
        """
        caps = [2 * limits.result_bytes + (1 << 20), _ERROR_BYTES, 4_096]
        kept = [bytearray(), bytearray(), bytearray()]
        deadline = time.monotonic() + limits.wall_seconds + _BACKSTOP_SECONDS
        with selectors.DefaultSelector() as selector:
            for index, descriptor in enumerate(descriptors):
                selector.register(descriptor, selectors.EVENT_READ, index)
            # the exit pipe's end is the child's end: the others may be left open by no one
            while any(key.data == 2 for key in selector.get_map().values()):
                events = selector.select(deadline - time.monotonic())
                if not events and time.monotonic() >= deadline:
                    self._restart()
                    raise SandboxUnavailable("the forker no longer answers")
                for key, _ in events:
                    piece = os.read(key.fd, 1 << 16)
                    if not piece:
                        selector.unregister(key.fd)
                        continue
                    room = caps[key.data] + 1 - len(kept[key.data])
                    kept[key.data] += piece[: max(0, room)]
            for key in list(selector.get_map().values()):  # what was written just before the end
                os.set_blocking(key.fd, False)
                with contextlib.suppress(BlockingIOError):
                    while piece := os.read(key.fd, 1 << 16):
                        room = caps[key.data] + 1 - len(kept[key.data])
                        kept[key.data] += piece[: max(0, room)]
        if len(kept[0]) > caps[0]:
            kept[0] = bytearray(b"over the cap")
        return [bytes(text) for text in kept]

    def _restart(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()
            self._stop()


def _outcome(texts: list[bytes], limits: Limits, seconds: float) -> SandboxOutcome:
    """An outcome from what the child wrote and how it ended."""
    result, errors, ending = texts
    if not ending:
        raise SandboxUnavailable("the forker ended while a program ran")
    end = json.loads(ending)
    measured: dict[str, Any] = {
        "wall_ms": seconds * 1e3,
        "cpu_ms": end["cpu_ms"],
        "peak_mib": end["peak_mib"],
        "runner": "cpython",
    }
    if end["exit"] == _LOCK_DOWN_FAILED:
        raise SandboxUnavailable(errors.decode("utf-8", "replace"))
    if end["exit"] != 0:
        status, message = _ending(end, limits)
        detail = errors.decode("utf-8", "replace").strip()
        error = ProgramError("Ended", f"{message}: {detail}" if detail else message)
        return SandboxOutcome(status, error=error, **measured)
    try:
        report = _Report.model_validate_json(result)
        return _believed(report, limits, measured)
    except ValidationError:
        too_big = result == b"over the cap"
        error = ProgramError(
            "Result", "the result is too large" if too_big else "the result is no valid JSON"
        )
        return SandboxOutcome("too_big" if too_big else "contract", error=error, **measured)


def _ending(end: dict[str, Any], limits: Limits) -> tuple[Status, str]:
    """The outcome of a child that did not end by itself, from its signal."""
    signal_number = -end["exit"]
    if end["late"]:
        return "timeout", f"no result after {limits.wall_seconds:g} s"
    if signal_number == 24 or (signal_number == 9 and end["cpu_ms"] >= limits.cpu_seconds * 1e3 - 100):
        return "timeout", f"more than {limits.cpu_seconds:g} s of processor time"
    if signal_number == 31:  # SIGSYS
        return "denied", "a forbidden system call"
    if signal_number == 9:
        return "memory", "ended by the system for want of memory"
    return (
        "error",
        f"the interpreter ended with {'signal ' if signal_number > 0 else 'status '}{abs(end['exit'])}",
    )


def _believed(report: _Report, limits: Limits, measured: dict[str, Any]) -> SandboxOutcome:
    """A report as an outcome, its numbers checked against one another."""
    error = None
    if report.error is not None:
        error = ProgramError(report.error.type[:200], report.error.message[:500], report.error.line)
    if report.status not in ("ok", "empty"):
        return SandboxOutcome(report.status, error=error, **measured)
    width = len(report.columns)
    rows: list[tuple[Cell, ...]] = [tuple(row) for row in report.rows]
    ties: list[tuple[Cell, ...]] = [tuple(row) for row in report.ties]
    sound = (
        all(len(row) == width for row in (*rows, *ties))
        and len(rows) <= min(report.row_count, limits.result_rows)
        and len(ties) <= limits.result_rows
        and report.row_count <= limits.table_rows
        and report.digest is not None
        and len(report.digest) == 32
    )
    if not sound:
        return SandboxOutcome(
            "contract", error=ProgramError("Result", "the result contradicts itself"), **measured
        )
    return SandboxOutcome(
        "ok" if report.row_count else "empty",
        columns=tuple(report.columns),
        rows=tuple(rows),
        row_count=report.row_count,
        truncated=len(rows) < report.row_count,
        digest=report.digest,
        ordered=report.ordered,
        ties=tuple(ties),
        **measured,
    )
