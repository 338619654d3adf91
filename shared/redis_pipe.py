"""One Redis connection for a hot path: all calls of one turn of the event loop leave in one write.

A call through redis-py's asyncio client costs some 150 us; here it is about 10. Knows the protocol,
scripts and reconnecting; knows nothing of what is stored. While the server is away every call fails
at once with `RedisDown`: the caller decides what that means.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import hiredis

RECONNECT_FIRST = 0.05
RECONNECT_CAP = 1.0


class RedisDown(Exception):
    """The server cannot be reached, or stopped answering."""


class RedisRefused(Exception):
    """The server answered with an error."""


class _Link(asyncio.Protocol):
    """A socket: bytes to replies, replies to the futures in order of their calls."""

    def __init__(self, on_lost: Callable[[_Link], None]) -> None:
        self.pending: deque[asyncio.Future[Any]] = deque()
        self.answered = 0
        self.lost = asyncio.Event()
        self.transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._on_lost = on_lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        reader, pending = self._reader, self.pending
        reader.feed(data)
        while (reply := reader.gets()) is not False:
            self.answered += 1
            future = pending.popleft()
            if future.done():  # Its caller was cancelled.
                continue
            if isinstance(reply, hiredis.ReplyError):
                future.set_exception(RedisRefused(str(reply)))
                if str(reply).startswith("NOSCRIPT"):  # Scripts were flushed; they come with a connection.
                    self.abort()
            else:
                future.set_result(reply)

    def connection_lost(self, error: Exception | None) -> None:
        while self.pending:
            future = self.pending.popleft()
            if not future.done():
                future.set_exception(RedisDown("the connection to Redis was lost"))
        self.lost.set()
        self._on_lost(self)

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class RedisPipe:
    """A self-healing connection; `start` it in the loop that uses it.

    Args:
        url: `redis://` or `rediss://[user:password@]host[:port][/database]`, or `unix://path`.
        scripts: Lua sources by name, for `run`.
        timeout: seconds without any reply, while calls are waiting, after which the server counts
            as gone (noticed between one and two times as late).
        on_connect: called after every (re)connection, when calls are possible again.
    """

    def __init__(
        self,
        url: str,
        scripts: Mapping[str, str] | None = None,
        *,
        timeout: float = 1.0,
        on_connect: Callable[[], None] | None = None,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("a Redis address starts with redis://, rediss:// or unix://")
        self._parts = parts
        self._scripts = dict(scripts or {})
        self._digests = {
            name: hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
            for name, source in self._scripts.items()
        }
        self._timeout = timeout
        self._on_connect = on_connect
        self._link: _Link | None = None
        self._buffer: list[bytes] = []
        self._scheduled = False
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()
        self.connected = False
        self.last_error = "not connected yet"

    async def start(self, wait: float = 2.0) -> None:
        """Begin to keep a connection; returns when the first stands or after `wait` seconds."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._keep_connected())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._first.wait(), wait)

    async def close(self) -> None:
        """Wait for outstanding replies (at most the timeout), then disconnect."""
        link = self._link
        if link is not None and link.pending:
            waiting = [future for future in link.pending if not future.done()]
            if waiting:
                await asyncio.wait(waiting, timeout=self._timeout)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.connected = False
        if self._link is not None:
            self._link.abort()
        await asyncio.sleep(0)

    def call(self, *arguments: str | bytes | int | float) -> asyncio.Future[Any]:
        """Send a command; the future holds its reply or fails with RedisDown or RedisRefused.

        Raises:
            RedisDown: at once, while there is no connection.
        """
        if not self.connected:
            raise RedisDown(self.last_error)
        return self._enqueue(arguments)

    def run(self, script: str, *arguments: str | bytes | int | float) -> asyncio.Future[Any]:
        """Run a script by name; `arguments` are the number of keys, the keys and the values."""
        if not self.connected:
            raise RedisDown(self.last_error)
        return self._enqueue(("EVALSHA", self._digests[script], *arguments))

    def _enqueue(self, arguments: tuple[str | bytes | int | float, ...]) -> asyncio.Future[Any]:
        link = self._link
        assert link is not None
        packed = hiredis.pack_command(arguments)  # type: ignore[arg-type]
        self._buffer.append(packed)
        future: asyncio.Future[Any] = self._loop.create_future()
        link.pending.append(future)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._scheduled = False
        buffer, self._buffer = self._buffer, []
        link = self._link
        if link is not None and link.transport is not None and not link.transport.is_closing():
            link.transport.write(b"".join(buffer))

    # Keeping the connection.

    async def _keep_connected(self) -> None:
        pause = RECONNECT_FIRST
        while True:
            try:
                await self._connect()
                pause = RECONNECT_FIRST
                await self._watch()
                self.last_error = "the connection to Redis was lost"
            except (OSError, RedisDown, RedisRefused, TimeoutError) as error:
                self.last_error = f"Redis cannot be reached: {error or type(error).__name__}"
            finally:
                self._disconnect()
            await asyncio.sleep(pause * random.uniform(0.7, 1.3))
            pause = min(pause * 2, RECONNECT_CAP)

    async def _connect(self) -> None:
        link = _Link(self._on_link_lost)
        parts = self._parts
        async with asyncio.timeout(self._timeout):
            if parts.scheme == "unix":
                await self._loop.create_unix_connection(lambda: link, parts.path)
            else:
                context = ssl.create_default_context() if parts.scheme == "rediss" else None
                await self._loop.create_connection(
                    lambda: link, parts.hostname or "127.0.0.1", parts.port or 6379, ssl=context
                )
        self._link, self._buffer = link, []
        async with asyncio.timeout(self._timeout):
            for command in self._greeting():
                await self._enqueue(command)
        self.connected = True
        self._first.set()
        if self._on_connect is not None:
            self._on_connect()

    def _greeting(self) -> list[tuple[str, ...]]:
        parts = self._parts
        commands: list[tuple[str, ...]] = []
        if parts.password:
            user = (unquote(parts.username),) if parts.username else ()
            commands.append(("AUTH", *user, unquote(parts.password)))
        database = "" if parts.scheme == "unix" else parts.path.strip("/")
        if database and database != "0":
            commands.append(("SELECT", database))
        commands += [("SCRIPT", "LOAD", source) for source in self._scripts.values()]
        return commands or [("PING",)]

    async def _watch(self) -> None:
        """Return when the connection is lost or the server stops answering."""
        link = self._link
        assert link is not None
        while True:
            answered, waiting = link.answered, bool(link.pending)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.lost.wait(), self._timeout)
            if link.lost.is_set():
                return
            if waiting and link.answered == answered:
                raise RedisDown(f"no reply for {self._timeout:g} s")

    def _on_link_lost(self, link: _Link) -> None:
        if link is self._link:
            self.connected = False

    def _disconnect(self) -> None:
        self.connected = False
        link, self._link = self._link, None
        if link is not None:
            link.abort()
