"""The warm process that forks one confined child per program, and outlives none of them.

Started as `python -I forker.py FD CONFIG` with an empty environment. Single-threaded: it must
fork safely. Over its control socket (SOCK_SEQPACKET) it takes a job as JSON with four
descriptors (snapshot file, result pipe, error pipe, exit pipe), enforces the wall limit by
SIGKILL, and writes to the exit pipe how the child ended. End of file on the socket ends it and,
through its PID namespace or their death signals, its children.
"""

import array
import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

# Run by path with -I: the package roots are set here without their __init__, which would import
# the parent's half of the sandbox (Monty's client starts threads, and this process must not).
_HERE = Path(__file__).resolve().parent
for _name, _folder in (("shared", _HERE.parent), ("shared.sandbox", _HERE)):
    _package = ModuleType(_name)
    _package.__path__ = [str(_folder)]
    sys.modules.setdefault(_name, _package)

from shared.sandbox import child  # noqa: E402
from shared.sandbox.confinement import enter_namespaces, landlock, seccomp  # noqa: E402
from shared.sandbox.confinement.process import die_with_parent, drop_capabilities, drop_user  # noqa: E402

_MESSAGE = 512 * 1024
_DESCRIPTORS = 4


def main() -> NoReturn:
    """Make ready, say so, then serve jobs until the socket closes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    config = json.loads(sys.argv[2])
    landlock.SIMULATE_ABSENT = "landlock" in config["absent"]
    seccomp.SIMULATE_ABSENT = "seccomp" in config["absent"]
    try:
        child.warm_up(config["frames"])
        os.environ.clear()
        layers = _confine_forker(control)
        ruleset = landlock.ruleset([], []) if landlock.abi() else None
        if not seccomp.available():
            raise OSError("the kernel has no seccomp filters")
        if ruleset is None and config["landlock_required"]:
            raise OSError("the kernel has no Landlock")
        filter_ = seccomp.compile_filter(start_program=False)
    except OSError as error:
        control.send(json.dumps({"error": str(error)}).encode())
        os._exit(1)
    layers += ["seccomp"] + (["landlock"] if ruleset is not None else [])
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"layers": layers}).encode())
    _Server(control, filter_, ruleset).serve()


def _confine_forker(control: socket.socket) -> list[str]:
    """Leave the parent's user, privileges, network and process table behind."""
    if len(list(Path("/proc/self/task").iterdir())) != 1:
        raise OSError("a library started a thread in the forker, which then cannot fork safely")
    entered = enter_namespaces()
    if "pid" in entered:
        inner = os.fork()
        if inner:
            control.close()
            _, status = os.waitpid(inner, 0)
            os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
    drop_user()
    drop_capabilities()
    die_with_parent()
    return entered


class _Server:
    """The loop: take jobs, kill what is late, report what ended."""

    def __init__(self, control: socket.socket, filter_: seccomp.Filter, ruleset: int | None) -> None:
        self._control = control
        self._filter = filter_
        self._ruleset = ruleset
        self._running: dict[int, tuple[float, int]] = {}  # pid -> (deadline, exit pipe)
        self._late: set[int] = set()
        self._wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> NoReturn:
        while True:
            soonest = min((deadline for deadline, _ in self._running.values()), default=None)
            wait = None if soonest is None else max(0.0, soonest - time.monotonic())
            ready, _, _ = select.select([self._control.fileno(), self._wake], [], [], wait)
            if self._control.fileno() in ready:
                self._take_job()
            if self._wake in ready:
                os.read(self._wake, 4_096)
            self._kill_late()
            self._reap()

    def _take_job(self) -> None:
        descriptors = array.array("i")
        message, ancillary, _, _ = self._control.recvmsg(
            _MESSAGE, socket.CMSG_SPACE(_DESCRIPTORS * descriptors.itemsize)
        )
        if not message:
            self._end()
        for _level, _kind, content in ancillary:
            descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        job: dict[str, Any] = json.loads(message)
        job["parent"] = os.getpid()
        deadline = time.monotonic() + job["limits"]["wall_seconds"]
        pid = os.fork()
        if pid == 0:
            child.run_child(job, list(descriptors), self._filter, self._ruleset)
        for descriptor in descriptors[:3]:
            os.close(descriptor)
        self._running[pid] = (deadline, descriptors[3])

    def _kill_late(self) -> None:
        now = time.monotonic()
        for pid, (deadline, exit_pipe) in self._running.items():
            if now >= deadline:
                self._late.add(pid)
                os.kill(pid, signal.SIGKILL)
                self._running[pid] = (now + 1.0, exit_pipe)

    def _reap(self) -> None:
        while self._running:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
            if pid == 0:
                return
            if pid not in self._running:
                continue
            _, exit_pipe = self._running.pop(pid)
            report = {
                "exit": os.waitstatus_to_exitcode(status),
                "late": pid in self._late,
                "cpu_ms": (usage.ru_utime + usage.ru_stime) * 1e3,
                "peak_mib": usage.ru_maxrss / 1024,
            }
            self._late.discard(pid)
            with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                os.write(exit_pipe, json.dumps(report).encode())
            os.close(exit_pipe)

    def _end(self) -> NoReturn:
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
        os._exit(0)


if __name__ == "__main__":
    main()
