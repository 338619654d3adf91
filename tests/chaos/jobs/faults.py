"""Ways to hurt the queue: processes that are killed, a Redis that forgets, a database cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import redis

from deploy.redis_server import RedisServer, start_redis


class Process:
    """A process of the suite that can be killed and started again."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self.name, self._arguments, self._environment, self._log = name, arguments, environment, log
        self._process: asyncio.subprocess.Process | None = None
        self.starts = 0

    @property
    def has_ended(self) -> bool:
        """Whether it went by itself; a process manager would start it again."""
        return self._process is not None and self._process.returncode is not None

    @property
    def log(self) -> Path:
        """What the present process wrote."""
        return self._log.with_suffix(f".{self.starts}.log")

    async def start(self) -> None:
        """Start it."""
        self.starts += 1
        with self.log.open("wb") as sink:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                *self._arguments,
                env={**os.environ, **self._environment},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )

    async def kill(self) -> None:
        """SIGKILL, as the machine's end would."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def stop(self) -> int:
        """SIGTERM, and its exit status."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._process.wait(), 35)
            except TimeoutError:
                await self.kill()
        return int(self._process.returncode or 0)

    def worker_id(self) -> str | None:
        """The id a worker process gave itself, once its log says that it can work."""
        for line in self.log.read_text(errors="replace").splitlines():
            if '"ready for jobs"' in line:
                worker: str = json.loads(line)["worker"]
                return worker
        return None


class Redis:
    """A real Redis that can be restarted at the same address, with or without what it knew."""

    def __init__(self, folder: Path, binary: str | None = None) -> None:
        self._folder, self._binary = folder, binary
        self._server: RedisServer = start_redis(folder, binary=binary)

    @property
    def url(self) -> str:
        """Where it is, always."""
        return self._server.url

    @property
    def name(self) -> str:
        """What kind of server it is, and which version."""
        with redis.Redis.from_url(self.url, decode_responses=True) as client:
            server: dict[str, str] = client.info("server")
        kind = server.get("server_name", "redis")
        return f"{kind} {server.get(f'{kind}_version')}"

    async def restart(self, *, keep_data: bool, away_seconds: float = 0.5) -> None:
        """SIGKILL it, and start it again after a while."""
        address = urlsplit(self._server.url)
        self._server.kill()
        if not keep_data:
            shutil.rmtree(self._folder)
        await asyncio.sleep(away_seconds)
        self._server = await asyncio.to_thread(
            start_redis, self._folder, address.port, address.password, self._binary
        )

    def stop(self) -> None:
        """The end."""
        self._server.stop()


class SqliteCut:
    """SQLite goes away when somebody else holds its write lock."""

    name = "SQLite"

    def __init__(self, url: str) -> None:
        self.url = url
        self._path = url.removeprefix("sqlite:///")

    async def start(self) -> None:
        """Nothing to do before the first cut."""

    async def cut(self, seconds: float) -> None:
        """Let nobody write for a while."""

        def hold() -> None:
            with contextlib.closing(sqlite3.connect(self._path, timeout=30, isolation_level=None)) as held:
                held.execute("BEGIN EXCLUSIVE")
                time.sleep(seconds)
                held.execute("COMMIT")

        await asyncio.to_thread(hold)

    async def stop(self) -> None:
        """Nothing is left behind."""


class PostgresCut:
    """A proxy before PostgreSQL's socket: a cut breaks every connection and refuses new ones."""

    name = "PostgreSQL"

    def __init__(self, url: str, folder: Path) -> None:
        target, _, query = url.partition("?host=")
        self._target = f"{query}/.s.PGSQL.5432"
        self._folder = folder
        folder.mkdir()
        self.url = f"{target}?host={folder}"
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Begin to pass connections on."""
        self._server = await asyncio.start_unix_server(self._serve, self._folder / ".s.PGSQL.5432")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs_in, theirs_out = await asyncio.open_unix_connection(self._target)
        ends = {writer, theirs_out}
        self._open |= ends
        try:
            await asyncio.gather(_copy(reader, theirs_out), _copy(theirs_in, writer))
        finally:
            for end in ends:
                end.close()
            self._open -= ends

    async def cut(self, seconds: float) -> None:
        """Break what is open, refuse what comes, for a while."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        (self._folder / ".s.PGSQL.5432").unlink(missing_ok=True)
        await asyncio.sleep(seconds)
        await self.start()

    async def stop(self) -> None:
        """Close everything."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._open):
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    # One end gone is both ends gone.
    writer.close()


def unused_port() -> int:
    """A port for an API that must come back at the same address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
