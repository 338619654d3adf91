"""Processes under measurement: started on a core, watched through /proc, ended with their children."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from deploy.redis_server import die_with_parent

NATIVE = Path(__file__).parent / "native"


class CannotMeasure(Exception):
    """Something the benchmark needs is missing; the message says what, and how to get it."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where things run: the proxy alone on one core, everything else on another."""

    proxy: int
    rest: int

    @classmethod
    def choose(cls) -> Cores:
        """The first two cores we may use; on a machine with one core both are the same."""
        cores = sorted(os.sched_getaffinity(0))
        return cls(cores[0], cores[min(1, len(cores) - 1)])


def prioritise(pid: int, nice: int) -> None:
    """Set the scheduler priority of a process and, where the kernel groups sessions, of its session."""
    os.setpriority(os.PRIO_PROCESS, pid, nice)
    with contextlib.suppress(FileNotFoundError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def compile_native(folder: Path) -> tuple[Path, Path]:
    """Build the fake upstream and the loader into `folder` with the system's C compiler.

    Raises:
        CannotMeasure: there is no compiler, or it fails.
    """
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise CannotMeasure(
            "No C compiler was found: install gcc or clang, or name one in CC. "
            "The load generator and the fake upstream are two small C programs."
        )
    for name in ("upstream", "loader"):
        command = [compiler, "-O2", "-std=gnu11", "-o", str(folder / name), str(NATIVE / f"{name}.c")]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise CannotMeasure(f"{name}.c does not compile:\n{result.stderr}")
    return folder / "upstream", folder / "loader"


@dataclass(slots=True)
class Process:
    """A running server and its children."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def tree(self) -> list[psutil.Process]:
        """The process and all its descendants."""
        try:
            root = psutil.Process(self.popen.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu_seconds(self) -> float:
        """User and system time used so far, from /proc/<pid>/stat."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def resident_bytes(self) -> int:
        """Resident memory; pages shared by parent and child count in each."""
        total = 0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to what is still there after ten seconds."""
        tree = self.tree()
        with contextlib.suppress(ProcessLookupError):
            self.popen.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(10)
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.popen.wait()


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    core: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Process:
    """Start `command` in `folder`, pinned to `core`; its output goes to `<name>.log` there."""

    def prepare() -> None:
        die_with_parent()
        os.sched_setaffinity(0, {core})
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    log = folder / f"{name}.log"
    with log.open("ab") as sink:
        popen = subprocess.Popen(
            [str(part) for part in command],
            env={**os.environ, **(environment or {})},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            preexec_fn=prepare,
        )
    return Process(name, popen, log)


def wait_until(process: Process, ready: Callable[[], bool], seconds: float) -> None:
    """Wait for `ready()`.

    Raises:
        CannotMeasure: the process ended, or was not ready in time; with the end of its log.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.popen.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if ready():
                return
        time.sleep(0.1)
    tail = process.log.read_text(errors="replace")[-800:]
    state = "ended" if process.popen.poll() is not None else f"was not ready within {seconds:g} s"
    raise CannotMeasure(f"{process.name} {state}:\n{tail}")
