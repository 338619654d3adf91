"""The guard between a worker and the process of a job: when either is gone, nothing of the job is left.

A handler may start processes, and those may leave its process group (torchrun gives every rank a
session of its own). The kernel hands a process whose parent dies to the nearest subreaper above it.
That is the guard, so it still knows them all: when the job ended, crashed, was killed, or lost its
worker. It knows nothing of jobs.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import resource
import signal
import sys
import time
from typing import NoReturn

from shared.jobs.process_tree import kill_below

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
CLEAR_SECONDS = 3.0
PAUSE_SECONDS = 0.005
_WATCHED = {signal.SIGCHLD, signal.SIGUSR1}
_BLOCKED = _WATCHED | {signal.SIGTERM, signal.SIGINT}


def stand_guard(worker: int, descriptor: int) -> None:
    """Fork. The new process returns and runs jobs; the old one guards it and ends as it ends.

    `worker` is the process id of our parent, `descriptor` the job's end of the socket, which the guard
    must not hold open. Forking is safe here: the caller has one thread yet.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != worker:
        sys.exit(1)
    guard = os.getpid()
    job = os.fork()
    if job != 0:
        os.close(descriptor)
        _guard(worker, job)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        sys.exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)


def _guard(worker: int, job: int) -> NoReturn:
    status: int | None = None
    # The job's end is told by SIGCHLD, the worker's by SIGUSR1; anybody may send those, so look.
    while status is None and os.getppid() == worker:
        signal.sigwait(_WATCHED)
        status = _reap(job)
    _clear()
    # Without a worker nobody asks how it ended.
    _end_like(signal.SIGKILL if status is None else status)


def _reap(job: int) -> int | None:
    """Bury whoever has died below us; the wait status of `job` if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == job:
            found = status


def _clear() -> None:
    """Kill all that is left, again and again: what is killed may have started something meanwhile."""
    give_up = time.monotonic() + CLEAR_SECONDS
    while kill_below(os.getpid()) and time.monotonic() < give_up:
        time.sleep(PAUSE_SECONDS)
        _reap(0)


def _end_like(status: int) -> NoReturn:
    """End with the status that the job ended with, so that our parent sees it."""
    if os.WIFEXITED(status):
        os._exit(os.WEXITSTATUS(status))
    number = os.WTERMSIG(status)
    # The job has said its last words and left its core; the guard only repeats the signal.
    faulthandler.disable()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    os._exit(128 + number)
