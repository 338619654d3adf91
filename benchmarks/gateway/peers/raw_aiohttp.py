"""The usual fast way: a bare ASGI function and aiohttp's pooled client, without any of the gateway's duties.

Run: `python -m benchmarks.gateway.peers.raw_aiohttp PORT UPSTREAM_PORT`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import orjson
import uvicorn

from benchmarks.gateway.peers.raw_asgi import FORWARDED
from shared.upstream import end_to_end

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Proxy:
    """Forwards every request to one upstream, streams what comes back; parses the body once."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if body:
            orjson.loads(body)
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name in FORWARDED}
        assert self._session is not None
        address = self._upstream + scope["path"]
        async with self._session.request(scope["method"], address, headers=headers, data=body) as reply:
            received = [(name.lower(), value) for name, value in reply.raw_headers]
            await send(
                {
                    "type": "http.response.start",
                    "status": reply.status,
                    "headers": end_to_end(received),
                }
            )
            async for piece in reply.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                connector = aiohttp.TCPConnector(limit=0)
                self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
            elif self._session is not None:
                await self._session.close()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


if __name__ == "__main__":
    port, upstream_port = map(int, sys.argv[1:3])
    uvicorn.run(Proxy(f"http://127.0.0.1:{upstream_port}"), port=port, log_level="error", access_log=False)
