"""The Monty runner: `rows` programs in a Rust interpreter, one confined worker per program.

The worker answers nothing but reads of the snapshot. A worker is confined by `monty_launcher`,
fed the helpers and parked before it is needed, serves one program, and is never used again: an
escape would find nobody else's data. What a program returns is walked here by exact type and
under caps, because Monty hands over shared structure as it is: a list of a list of a list, each
a hundred times the same, is a few bytes on the wire and exhausts whoever walks it.
"""

import contextlib
import os
import shlex
import shutil
import sys
import tempfile
import threading
import time
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import pydantic_monty
from pydantic_monty._binary import find_monty_binary

from shared.sandbox.contract import Limits, ProgramError, SandboxOutcome, SandboxUnavailable, Snapshot, Status
from shared.sandbox.encoding import EncodedSnapshot, encoded
from shared.sandbox.result import ContractViolation, ResultTooBig, canonical_result
from shared.sandbox.tables import helper_source, select

_LAUNCHER = Path(__file__).with_name("monty_launcher.py")
_MEMORY_MIB = 256
_CEILING_MEMORY_MIB = 1_024
_CEILING_SECONDS = 60
_INTERPRETER_MIB = 512  # address space of the idle worker is 180 MiB
_DATABASE = """
class _Database:
    def __init__(self, today):
        self.today = today

    def table(self, name, columns=None, where=None):
        return _table(name, columns, where)
"""
_CLOCK = ("time.", "date.", "datetime.")
_Key = tuple[str, float, int, int]
"""dialect, CPU seconds, memory in MiB, random seed: what is fixed when a worker is parked"""

CPYTHON_MAY_KNOW = (
    *("SyntaxError", "NotImplementedError", "ModuleNotFoundError", "ImportError"),
    *("AttributeError", "NameError", "TypeError"),
)
"""Errors by which Monty says that it lacks a construct; the CPython child then has the last word."""


class MontyRunner:
    """Runs `rows` programs; thread-safe."""

    name = "monty"

    def __init__(self, *, workers: int, absent: frozenset[str] = frozenset()) -> None:
        """Start the pool and prove one worker confined. Raises SandboxUnavailable."""
        self._folder = Path(tempfile.mkdtemp(prefix="monty-"))
        self._parked = 2 * workers  # a question's programs come in a burst of about four
        self._spares: OrderedDict[_Key, deque[pydantic_monty.MontySession]] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = False
        self._warmers = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-warm")
        self._script = self._folder / "monty"
        self._script_text = self._launcher(absent)
        self._write_launcher()
        self._pool = pydantic_monty.Monty(
            binary_path=self._script,
            min_processes=0,
            max_processes=7 * workers + 2,
            max_checkouts_per_worker=1,
            checkout_timeout=float(_CEILING_SECONDS),
            request_timeout=float(_CEILING_SECONDS),
        )
        try:
            self._pool.__enter__()
            limits = Limits()
            key = ("sqlite", limits.cpu_seconds, _MEMORY_MIB, 1)
            self._park(key, self._fresh(key))
            for _ in range(1, self._parked):
                self._warmers.submit(self._replenish, key)
        except SandboxUnavailable:
            self.close()
            raise
        except Exception as error:
            self.close()
            raise SandboxUnavailable(f"no confined Monty worker starts here: {error}") from error

    def run(
        self, program: str, data: Snapshot, limits: Limits, *, dialect: str, seed: int = 1
    ) -> SandboxOutcome:
        """One program in one worker. Raises SandboxUnavailable."""
        content = encoded(data)
        memory = limits.memory_mib or _MEMORY_MIB
        seconds = min(limits.cpu_seconds, limits.wall_seconds)
        if memory > _CEILING_MEMORY_MIB or seconds > _CEILING_SECONDS:
            raise ValueError(f"at most {_CEILING_MEMORY_MIB} MiB and {_CEILING_SECONDS} s in Monty")
        started = time.perf_counter()
        session = self._take((dialect, seconds, memory, seed))
        host = _Host(content, limits, dialect)
        try:
            before = _processor_ms(session)
            status, fields = _feed(session, program, content.today, host, limits)
            cpu, peak = max(0.0, _processor_ms(session) - before), _peak_mib(session)
        finally:
            with contextlib.suppress(pydantic_monty.MontyError):
                session.__exit__(None, None, None)
        wall = (time.perf_counter() - started) * 1e3
        return SandboxOutcome(status, wall_ms=wall, cpu_ms=cpu, peak_mib=peak, runner="monty", **fields)

    def close(self) -> None:
        """End every worker."""
        with self._lock:
            self._closed = True
        self._warmers.shutdown(wait=True, cancel_futures=True)
        for spares in self._spares.values():
            for session in spares:
                with contextlib.suppress(pydantic_monty.MontyError):
                    session.__exit__(None, None, None)
        self._spares.clear()
        with contextlib.suppress(RuntimeError, pydantic_monty.MontyError):
            self._pool.__exit__(None, None, None)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launcher(self, absent: frozenset[str]) -> str:
        """A script that starts the launcher in place of the worker's own binary."""
        try:
            binary = find_monty_binary()
        except FileNotFoundError as error:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise SandboxUnavailable(str(error)) from error
        limits = [2 * _CEILING_SECONDS, (_CEILING_MEMORY_MIB + _INTERPRETER_MIB) << 20]
        command = [sys.executable, "-I", "-S", str(_LAUNCHER), str(binary), *map(str, limits)]
        command.append(",".join(sorted(absent)) or "-")
        return f'#!/bin/sh\nexec {shlex.join(command)} "$@" 2>/dev/null\n'

    def _write_launcher(self) -> None:
        """Write it, again where something has swept the folder for temporary files.

        Raises SandboxUnavailable where the folder is somebody else's by now.
        """
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        if self._folder.stat().st_uid != os.geteuid() or self._folder.is_symlink():
            raise SandboxUnavailable(f"{self._folder} is not ours any more")
        self._script.write_text(self._script_text)
        self._script.chmod(0o700)

    def _take(self, key: _Key) -> pydantic_monty.MontySession:
        """A parked worker, or a new one where none waits; its successor is started behind."""
        with self._lock:
            if self._closed:
                raise SandboxUnavailable("the sandbox is closed")
            spares = self._spares.get(key)
            session = spares.popleft() if spares else None
            missing = self._parked - len(spares or ())
            for _ in range(missing):
                self._warmers.submit(self._replenish, key)
        if session is not None:
            return session
        try:
            return self._fresh(key)
        except (pydantic_monty.MontyError, OSError, TimeoutError, RuntimeError) as error:
            raise SandboxUnavailable(f"no confined Monty worker starts here: {error}") from error

    def _replenish(self, key: _Key) -> None:
        with self._lock:
            if self._closed or len(self._spares.get(key, ())) >= self._parked:
                return
        with contextlib.suppress(pydantic_monty.MontyError, OSError, SandboxUnavailable, RuntimeError):
            self._park(key, self._fresh(key))

    def _park(self, key: _Key, session: pydantic_monty.MontySession) -> None:
        """Keep a worker for the next program with this key; the longest unused keys lose theirs."""
        surplus: list[pydantic_monty.MontySession] = []
        with self._lock:
            self._spares.setdefault(key, deque()).append(session)
            self._spares.move_to_end(key)
            while sum(len(spares) for spares in self._spares.values()) > 2 * self._parked:
                surplus.extend(self._spares.popitem(last=False)[1])
        for old in surplus:
            old.__exit__(None, None, None)

    def _fresh(self, key: _Key) -> pydantic_monty.MontySession:
        dialect, seconds, memory, seed = key
        if not self._script.exists():
            self._write_launcher()
        session = self._pool.checkout(
            script_name="program",
            limits={"max_feed_duration_secs": seconds, "max_memory": memory << 20},
            assert_message_annotations=False,
            os_policy={"datetime": "call_host", "sleep": "call_host", "random_start": {"seed": seed}},
        )
        session.__enter__()
        try:
            _prove_confined(session)
            session.feed_run(helper_source(dialect) + _DATABASE)
        except BaseException:
            session.__exit__(None, None, None)
            raise
        return session


class _Host:
    """What a program may ask of the parent: tables. All else is refused and remembered."""

    def __init__(self, content: EncodedSnapshot, limits: Limits, dialect: str) -> None:
        self._content, self._limits, self._dialect = content, limits, dialect
        self._deadline = time.monotonic() + limits.wall_seconds
        self.denied: str | None = None
        self.too_big: str | None = None
        self.late = False

    def table(self, name: Any, columns: Any = None, where: Any = None) -> list[dict[str, Any]]:
        if time.monotonic() > self._deadline:
            self.late = True
            raise RuntimeError("out of time")
        try:
            names, rows = select(
                self._content.tables, name, columns, where, dialect=self._dialect, limits=self._limits
            )
        except ResultTooBig as error:
            self.too_big = str(error)
            raise RuntimeError(str(error)) from None
        return [dict(zip(names, row, strict=True)) for row in rows]

    def system(
        self, *, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], is_async: bool, **_: Any
    ) -> NoReturn:
        if name.startswith(_CLOCK) and name != "time.sleep":
            raise RuntimeError("there is no clock here; use db.today")
        self.denied = self.denied or f"{name} is not allowed"
        raise PermissionError(f"{name} is not allowed")


def _feed(
    session: pydantic_monty.MontySession, program: str, today: str, host: _Host, limits: Limits
) -> tuple[Status, dict[str, Any]]:
    """Run the program; its status and the outcome's other fields."""
    status: Status
    try:
        # solve is called in the program's own feed: one time limit, and its line numbers
        value = session.feed_run(
            f"{program}\n\nsolve(_Database({today!r}))",
            external_lookup={"_table": host.table},
            print_callback=lambda _stream, _text: None,
            os=host.system,
        )
        payload = canonical_result(value, limits)
    except ContractViolation as error:
        status, failure = "contract", ProgramError("ContractViolation", str(error))
    except ResultTooBig as error:
        status, failure = "too_big", ProgramError("ResultTooBig", str(error))
    except pydantic_monty.MontyCrashedError as error:
        status, failure = _crash(error), ProgramError("Ended", "the interpreter ended")
    except (pydantic_monty.MontyError, ValueError, RecursionError, MemoryError) as error:
        status, failure = _failure(error, program)
    else:
        if host.denied is None and not host.late:
            truncated = len(payload["rows"]) < payload["row_count"]
            rows, ties = ([tuple(row) for row in payload.pop(key)] for key in ("rows", "ties"))
            columns = tuple(payload.pop("columns"))
            fields = {"columns": columns, "rows": tuple(rows), "ties": tuple(ties), "truncated": truncated}
            return "ok" if payload["row_count"] else "empty", {**fields, **payload}
        status, failure = "error", ProgramError("Ended", "")
    if host.denied is not None:
        status, failure = "denied", ProgramError("Denied", host.denied, failure.line)
    elif host.late:
        status, failure = "timeout", ProgramError("Ended", f"no result after {limits.wall_seconds:g} s")
    elif host.too_big is not None:
        status, failure = "too_big", ProgramError("ResultTooBig", host.too_big, failure.line)
    return status, {"error": failure}


def _crash(error: pydantic_monty.MontyCrashedError) -> Status:
    """The outcome of a worker that died: by time, by a forbidden call, else for want of memory."""
    if error.timed_out or error.exit_status == -24:
        return "timeout"
    return "denied" if error.exit_status == -31 else "memory"


def _failure(error: BaseException, program: str) -> tuple[Status, ProgramError]:
    inner = error.exception() if isinstance(error, pydantic_monty.MontyError) else error
    name = type(inner).__name__
    message = str(inner)[:500]
    line = None
    if isinstance(error, pydantic_monty.MontyRuntimeError | pydantic_monty.MontySyntaxError):
        frames = error.traceback()
        lines = [frame.line for frame in frames if frame.filename == frames[0].filename]
        line = lines[-1] if lines and lines[-1] <= program.count("\n") + 1 else None
    if name == "NameError" and line is None and "'solve'" in message:
        return "contract", ProgramError("ContractViolation", "the program does not define solve(db)")
    if name in ("TimeoutError", "MemoryError"):
        return ("timeout" if name == "TimeoutError" else "memory"), ProgramError("Ended", message, line)
    return "error", ProgramError(name, message, line)


def _prove_confined(session: pydantic_monty.MontySession) -> None:
    """The kernel's own word that the worker is under a filter. Raises SandboxUnavailable."""
    status = _process_file(session, "status")
    if "\nSeccomp:\t2\n" not in status or "\nNoNewPrivs:\t1\n" not in status:
        raise SandboxUnavailable("a Monty worker runs without its system call filter")


def _processor_ms(session: pydantic_monty.MontySession) -> float:
    """Processor time of all the worker's threads so far."""
    tasks = Path(f"/proc/{session.worker_pid}/task")
    try:
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e6
    except (OSError, IndexError):
        return 0.0


def _peak_mib(session: pydantic_monty.MontySession) -> float:
    for line in _process_file(session, "status").splitlines():
        if line.startswith("VmHWM:"):
            return float(line.split()[1]) / 1024
    return 0.0


def _process_file(session: pydantic_monty.MontySession, name: str) -> str:
    """A file of the worker's /proc folder, empty when the worker is gone."""
    try:
        return Path(f"/proc/{session.worker_pid}/{name}").read_text()
    except OSError:
        return ""
