"""The limit of our own stack: a bare ASGI function and shared.upstream, without any of the gateway's duties.

Run: `python -m benchmarks.gateway.peers.raw_asgi PORT UPSTREAM_PORT`.
"""

from __future__ import annotations

import sys

import uvicorn

from benchmarks.gateway.peers.bare import FORWARDED, BareProxy, Scope, Send
from shared.upstream import HttpUpstream, Request, UpstreamLimits, end_to_end


class Proxy(BareProxy):
    """Forwards to one upstream and streams what comes back."""

    def __init__(self, upstream: str) -> None:
        self._upstream = HttpUpstream(
            upstream, name="bench", limits=UpstreamLimits(max_concurrency=4096), breaker=None
        )

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        await self._upstream.close()

    async def forward(self, scope: Scope, body: bytes, send: Send) -> None:
        headers = [field for field in scope["headers"] if field[0] in FORWARDED]
        call = Request(scope["method"], scope["path"], headers=headers, body=body, replayable=True)
        reply = await self._upstream.open(call)
        try:
            start = {"type": "http.response.start", "status": reply.status}
            await send(start | {"headers": end_to_end(reply.headers)})
            while piece := await reply.read():
                await send({"type": "http.response.body", "body": piece, "more_body": not reply.complete})
                if reply.complete:
                    return
            await send({"type": "http.response.body", "body": b""})
        finally:
            reply.close()


if __name__ == "__main__":
    port, upstream_port = map(int, sys.argv[1:3])
    uvicorn.run(Proxy(f"http://127.0.0.1:{upstream_port}"), port=port, log_level="error", access_log=False)
