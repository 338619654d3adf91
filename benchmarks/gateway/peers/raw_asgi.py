"""The limit of our own stack: a bare ASGI function and shared.upstream, without any of the gateway's duties.

Run: `python -m benchmarks.gateway.peers.raw_asgi PORT UPSTREAM_PORT`.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson
import uvicorn

from shared.upstream import HttpUpstream, Request, UpstreamLimits, end_to_end

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FORWARDED = (b"content-type", b"authorization")


class Proxy:
    """Forwards every request to one upstream; parses the body once, as everybody who routes must."""

    def __init__(self, upstream: str) -> None:
        self._upstream = HttpUpstream(
            upstream, name="bench", limits=UpstreamLimits(max_concurrency=4096), breaker=None
        )

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
        headers = [field for field in scope["headers"] if field[0] in FORWARDED]
        call = Request(scope["method"], scope["path"], headers=headers, body=body, replayable=True)
        reply = await self._upstream.open(call)
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": reply.status,
                    "headers": end_to_end(reply.headers),
                }
            )
            while piece := await reply.read():
                await send({"type": "http.response.body", "body": piece, "more_body": not reply.complete})
                if reply.complete:
                    return
            await send({"type": "http.response.body", "body": b""})
        finally:
            reply.close()

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                await self._upstream.close()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return


if __name__ == "__main__":
    port, upstream_port = map(int, sys.argv[1:3])
    uvicorn.run(Proxy(f"http://127.0.0.1:{upstream_port}"), port=port, log_level="error", access_log=False)
