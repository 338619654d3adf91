"""The usual fast way: a bare ASGI function and aiohttp's pooled client, without any of the gateway's duties.

Run: `python -m benchmarks.gateway.peers.raw_aiohttp PORT UPSTREAM_PORT`.
"""

from __future__ import annotations

import sys

import aiohttp
import uvicorn

from benchmarks.gateway.peers.bare import FORWARDED, BareProxy, Scope, Send
from shared.upstream import end_to_end


class Proxy(BareProxy):
    """Forwards to one upstream and streams what comes back."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self._session: aiohttp.ClientSession | None = None

    async def start(self) -> None:
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def forward(self, scope: Scope, body: bytes, send: Send) -> None:
        headers = {name.decode(): value.decode() for name, value in scope["headers"] if name in FORWARDED}
        assert self._session is not None
        address = self._upstream + scope["path"]
        async with self._session.request(scope["method"], address, headers=headers, data=body) as reply:
            received = [(name.lower(), value) for name, value in reply.raw_headers]
            start = {"type": "http.response.start", "status": reply.status, "headers": end_to_end(received)}
            await send(start)
            async for piece in reply.content.iter_any():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


if __name__ == "__main__":
    port, upstream_port = map(int, sys.argv[1:3])
    uvicorn.run(Proxy(f"http://127.0.0.1:{upstream_port}"), port=port, log_level="error", access_log=False)
