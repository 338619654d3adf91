"""Runs a command that must not outlive us: `python launch.py COMMAND...`.

It leads the process group, so that one signal reaches everything the command starts, and the kernel
tells it when its own parent is gone, even by SIGKILL: then the whole group goes too. Free of imports
from the suite, because it may run in another interpreter.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from types import FrameType

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
GRACE_SECONDS = 5.0


def die_with_parent(sign: int = signal.SIGKILL) -> None:
    """Ask the kernel to send `sign` to this process when its parent dies (Linux)."""
    parent = os.getppid()
    _prctl(PR_SET_PDEATHSIG, int(sign))
    # The parent may have gone before the call took effect.
    if os.getppid() != parent:
        raise SystemExit("the process that started this one is gone")


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def main(command: list[str]) -> None:
    """Run `command` and leave with its exit status; on a signal, end the whole group."""
    die_with_parent(signal.SIGTERM)
    # Workers whose parent dies become ours, so that we can wait for them.
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    child = subprocess.Popen(command)

    def end(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.killpg(0, signal.SIGTERM)
        _end_group(child)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    child.wait()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(0, signal.SIGTERM)
    _end_group(child)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Wait for every process below us; what is left after the grace is killed, we included."""
    deadline = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < deadline:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            os._exit(abs(child.returncode or 0) & 0xFF)
        if pid == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
        if pid == 0:
            time.sleep(0.02)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
