"""What happens in the forked CPython child: lock down, run one program, report, end.

The kernel's confinement (`lock_down`) is the boundary. The guards around it, a smaller set of
builtins, an import list and an audit hook, only turn an honest mistake or a plain attack into a
clear `denied`; a program that gets round them still meets the kernel.
"""

import builtins
import json
import marshal
import mmap
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from shared.sandbox import clock_free, tables
from shared.sandbox.confinement import lock_down, seccomp
from shared.sandbox.contract import Limits, Table
from shared.sandbox.result import ContractViolation, ResultTooBig, canonical_result

OFFERED = frozenset(
    {"math", "datetime", "re", "json", "decimal", "collections", "functools", "itertools"}
    | {"statistics", "operator", "string", "bisect", "heapq", "fractions", "copy", "typing"}
)
OFFERED_FRAMES = OFFERED | {"pandas", "numpy"}
HOSTILE_MODULES = frozenset(
    {"os", "sys", "subprocess", "socket", "ctypes", "shutil", "pathlib", "importlib", "builtins"}
    | {"signal", "threading", "_thread", "multiprocessing", "asyncio", "pickle", "marshal", "inspect"}
    | {"gc", "io", "tempfile", "mmap", "fcntl", "resource", "pty", "posix", "sqlite3", "urllib", "http"}
    | {"requests", "httpx", "ssl", "select", "selectors", "code", "codeop", "runpy", "types", "weakref"}
)
_IMPORTED_BY_C = ("_strptime",)
_REMOVED_BUILTINS = ("open", "input", "breakpoint", "exit", "quit", "help", "eval", "exec", "compile")
_HOSTILE_EVENTS = re.compile(
    r"open$|os\.|subprocess\.|socket\.|ctypes\.|shutil\.|tempfile\.|mmap\.|fcntl\.|signal\.|pty\."
    r"|sqlite3\.|syslog\.|resource\.|glob\.|pathlib\.|urllib\.|http\.|smtplib\.|ftplib\.|code\.__new__"
    r"|_thread\.|pdb\.|cpython\._?run|setopencode|gc\.|webbrowser\.|sys\.addaudithook"
)
_PROGRAM = "<program>"
_RESULT, _RULESET = 3, 4


class Denied(Exception):
    """The program asked for something outside the contract."""


class Guard:
    """Remembers that a forbidden thing was tried, so that `except` cannot hide it."""

    def __init__(self) -> None:
        self.armed = False
        self.tried: str | None = None
        self.line: int | None = None

    def deny(self, what: str) -> NoReturn:
        if self.tried is None:
            self.tried = what
            frame: FrameType | None = sys._getframe()
            while frame is not None and frame.f_code.co_filename != _PROGRAM:
                frame = frame.f_back
            self.line = None if frame is None else frame.f_lineno
        raise Denied(what)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook; it cannot be removed, only disarmed once the program is done."""
        if not self.armed or not _HOSTILE_EVENTS.match(event):
            return
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if event in ("open", "os.listdir") and caller.startswith(("importlib", "_frozen_importlib")):
            raise PermissionError("no more modules can be loaded")
        self.deny(f"{event} is not allowed")


class Database:
    """The `db` of a program: tables of the snapshot by name, and the date of today."""

    def __init__(self, today: str, read: Callable[[Any, Any, Any], Any]) -> None:
        self.today = today
        self._read = read

    def table(self, name: Any, columns: Any = None, where: Any = None) -> Any:
        """Rows of one table, as the form has them."""
        return self._read(name, columns, where)


class SnapshotTables(Mapping[str, Table]):
    """Tables decoded from the snapshot file when a program asks for them."""

    def __init__(self, descriptor: int, size: int) -> None:
        self._memory = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        header = int.from_bytes(self._memory[:8], "big")
        content = marshal.loads(self._memory[8 : 8 + header])
        self.today: str = content["today"]
        self._tables: dict[str, tuple[list[str], bool, int, int]] = content["tables"]
        self._bodies = 8 + header

    def __getitem__(self, name: str) -> Table:
        columns, oversized, start, length = self._tables[name]
        start += self._bodies
        rows = () if oversized else marshal.loads(self._memory[start : start + length])
        return Table(tuple(columns), rows, oversized)

    def __contains__(self, name: object) -> bool:
        return name in self._tables

    def __iter__(self) -> Iterator[str]:
        return iter(self._tables)

    def __len__(self) -> int:
        return len(self._tables)


def run_child(
    job: dict[str, Any],
    descriptors: list[int],
    filter_: seccomp.Filter,
    ruleset: int | None,
) -> NoReturn:
    """The child's whole life, from fork to `_exit`. Exits 70 when it could not be locked down."""
    try:
        snapshot_file, result, errors = descriptors[:3]
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        data = SnapshotTables(snapshot_file, job["snapshot_size"])
        _arrange_descriptors(result, errors, ruleset)
        limits = Limits(**job["limits"])
        lock_down(
            filter_,
            None if ruleset is None else _RULESET,
            parent=job["parent"],
            cpu_seconds=limits.cpu_seconds,
            address_space=_address_space(job["form"], limits),
            processes=64,
        )
    except BaseException as error:
        os.write(2, f"lock-down failed: {error!r}".encode()[:2_000])
        os._exit(70)
    report = _report(job, data, limits)
    text = json.dumps(report, allow_nan=False).encode()
    while text:
        text = text[os.write(_RESULT, text) :]
    os._exit(0)


def _address_space(form: str, limits: Limits) -> int:
    """Bytes: the limit is the whole of a frames child's space, and what a rows program may add."""
    if form == "frames":
        return (limits.memory_mib or 2_048) << 20
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE") + ((limits.memory_mib or 256) << 20)


def _arrange_descriptors(result: int, errors: int, ruleset: int | None) -> None:
    """0 nothing, 1 and 2 the error pipe, 3 the result pipe, 4 the Landlock ruleset, no others."""
    kept = [os.dup2(fd, 200 + index) for index, fd in enumerate((result, ruleset or errors, errors))]
    os.dup2(kept[2], 1)
    os.dup2(kept[2], 2)
    os.dup2(kept[0], _RESULT)
    os.dup2(kept[1], _RULESET)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.closerange(_RULESET if ruleset is None else _RULESET + 1, 4_096)


def _report(job: dict[str, Any], data: SnapshotTables, limits: Limits) -> dict[str, Any]:
    """Run the program and say what became of it, as JSON-able values."""
    guard = Guard()
    try:
        payload = _run(job, data, limits, guard)
    except BaseException as error:
        guard.armed = False
        failure = _failure(error)
    else:
        guard.armed = False
        failure = {"status": "ok", **payload}
    if guard.tried is not None:
        # whatever came of it, the attempt is what counts
        denial = {"type": "Denied", "message": guard.tried, "line": guard.line}
        failure = {"status": "denied", "error": denial}
    return failure


def _run(job: dict[str, Any], data: SnapshotTables, limits: Limits, guard: Guard) -> dict[str, Any]:
    dialect, frames = job["dialect"], job["form"] == "frames"
    namespace = tables.helper_namespace(dialect)
    read = _reader(data, dialect, limits, frames)
    if frames:
        import numpy
        import pandas

        from shared.sandbox import frames as frame_form

        frame_form.helpers(namespace)
        namespace |= {"pd": pandas, "np": numpy}
        numpy.random.seed(job["seed"])
    namespace["__name__"] = "program"
    namespace["__builtins__"] = _builtins(guard, frames) if job["guards"] else builtins.__dict__.copy()
    random.seed(job["seed"])
    if job["guards"]:
        sys.addaudithook(guard.audit)
    code = compile(job["program"], _PROGRAM, "exec", dont_inherit=True)
    guard.armed = bool(job["guards"])
    exec(code, namespace)
    solve = namespace.get("solve")
    if not callable(solve):
        raise ContractViolation("the program does not define solve(db)")
    value = solve(Database(data.today, read))
    guard.armed = False
    if frames and type(value) is dict:
        for key in ("rows", "ties"):
            if value.get(key) is not None:
                value[key] = frame_form.plain_rows(value[key])
    return canonical_result(value, limits)


def _reader(
    data: SnapshotTables, dialect: str, limits: Limits, frames: bool
) -> Callable[[Any, Any, Any], Any]:
    def read(name: Any, columns: Any, where: Any) -> Any:
        names, rows = tables.select(data, name, columns, where, dialect=dialect, limits=limits)
        if frames:
            from shared.sandbox import frames as frame_form

            return frame_form.frame(names, rows)
        return [dict(zip(names, row, strict=True)) for row in rows]

    return read


def _builtins(guard: Guard, frames: bool) -> dict[str, Any]:
    """The builtins of a program: all but those that reach outside, and an import that asks first."""
    offered = OFFERED_FRAMES if frames else OFFERED
    allowed = dict(builtins.__dict__)

    def import_module(
        name: str, globals_: Any = None, locals_: Any = None, fromlist: Any = (), level: int = 0
    ) -> Any:
        top = name.partition(".")[0]
        if name == "datetime" and level == 0:
            return clock_free.MODULE
        if (top in offered or name in _IMPORTED_BY_C) and level == 0:
            return builtins.__import__(name, globals_, locals_, fromlist, level)
        if top in HOSTILE_MODULES:
            guard.deny(f"import of {top} is not allowed")
        raise ModuleNotFoundError(f"no module {name!r} here; offered are {', '.join(sorted(offered))}")

    def removed(name: str) -> Callable[..., Any]:
        return lambda *_arguments, **_keywords: guard.deny(f"{name} is not allowed")

    for name in _REMOVED_BUILTINS:
        allowed[name] = removed(name)
    allowed["__import__"] = import_module
    allowed["print"] = lambda *_arguments, **_keywords: None
    return allowed


def _failure(error: BaseException) -> dict[str, Any]:
    """How an exception that left the program is reported."""
    if isinstance(error, ContractViolation):
        status = "contract"
    elif isinstance(error, ResultTooBig):
        status = "too_big"
    elif isinstance(error, MemoryError):
        status = "memory"
    elif isinstance(error, PermissionError | Denied):
        status = "denied"
    else:
        status = "error"
    try:
        message = str(error.msg if isinstance(error, SyntaxError) else error)[:500]
    except BaseException:  # the program's own exception class may raise here, or worse
        message = "the exception's own text could not be made"
    name = type(error).__name__
    return {
        "status": status,
        "error": {
            "type": name if type(name) is str else "Exception",
            "message": message.encode("utf-8", "replace").decode(),
            "line": _line(error, error.__traceback__),
        },
    }


def _line(error: BaseException, traceback: TracebackType | None) -> int | None:
    """The last line of the program that led to the error."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == _PROGRAM else None
    while traceback is not None:
        if traceback.tb_frame.f_code.co_filename == _PROGRAM:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line if type(line) is int else None


def warm_up(frames: bool) -> None:
    """Import all a program may touch, so that no file need be opened after the lock."""
    import importlib
    import pkgutil

    names = [*OFFERED, "_strptime", "locale", "encodings.idna", "encodings.latin_1", "encodings.ascii"]
    names += [
        "decimal",
        "_pydecimal",
        "difflib",
        "linecache",
        "traceback",
        "unicodedata",
        "calendar",
        "zoneinfo",
    ]
    for name in names:
        importlib.import_module(name)
    time.strptime("2024-02-29", "%Y-%m-%d")
    tables.warm_up()
    if frames:
        for blocked in ("pyarrow", "matplotlib", "numba", "numexpr", "bottleneck"):
            sys.modules[blocked] = None  # type: ignore[assignment] # they start threads
        from shared.sandbox import frames as frame_form

        for package in ("pandas.core", "pandas._libs", "pandas.tseries", "pandas.io.formats", "pandas.api"):
            for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
                try:
                    importlib.import_module(module.name)
                except ImportError:
                    continue
        for name in ("numpy.random", "numpy.fft", "numpy.linalg", "numpy.ma", "numpy.polynomial"):
            importlib.import_module(name)
        sample = frame_form.frame(["a", "b"], [[1, "x"], [None, "y"], [2, "x"]])
        frame_form.join(frame_form.distinct(sample), sample, "b", "full").groupby("b", dropna=False)[
            "a"
        ].sum()
        frame_form.plain_rows(sample.sort_values("a").describe())
