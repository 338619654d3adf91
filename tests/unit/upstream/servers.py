"""Scripted HTTP servers that send exactly the bytes a test names, when it says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Handler = Callable[["Call"], Awaitable[None]]


@dataclass
class Call:
    """One request as the server saw it, and the pen to answer with."""

    head: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    connection: int

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def cut(self) -> None:
        """Reset the connection."""
        self.writer.transport.abort()

    async def body(self) -> bytes:
        """The request's body by its content-length."""
        for line in self.head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                return await self.reader.readexactly(int(line.split(b":")[1]))
        return b""

    async def closed_by_peer(self) -> None:
        """Return when the client has gone away."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


@dataclass
class ScriptedServer:
    """Runs `handler` for every request of every connection until the handler closes it."""

    handler: Handler
    url: str = ""
    connections: int = 0
    calls: list[bytes] = field(default_factory=list)

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                self.calls.append(head)
                await self.handler(Call(head, reader, writer, number))
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[ScriptedServer]:
    scripted = ScriptedServer(handler)
    server = await asyncio.start_server(scripted.on_connection, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()


def answering(*pieces: bytes) -> Handler:
    """Send `pieces` one after the other, each in a packet of its own."""

    async def handler(call: Call) -> None:
        await call.body()
        for piece in pieces:
            await call.send(piece)
            await asyncio.sleep(0.005)

    return handler
