"""The proxy most people write first: a FastAPI route and httpx.AsyncClient. No key, no limit, no metering.

Run: `python -m benchmarks.gateway.peers.fastapi_httpx PORT UPSTREAM_PORT`.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

PATH = "/v1/chat/completions"


def create_app(upstream: str) -> FastAPI:
    """The proxy in front of `upstream`."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    client = httpx.AsyncClient(base_url=upstream, limits=limits, timeout=120)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with client:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post(PATH)
    async def forward(request: Request) -> Response:
        body = await request.body()
        stream = orjson.loads(body).get("stream", False)
        headers = {
            name: value
            for name in ("content-type", "authorization")
            if (value := request.headers.get(name)) is not None
        }
        if not stream:
            answer = await client.post(PATH, content=body, headers=headers)
            return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))
        call = client.build_request("POST", PATH, content=body, headers=headers)
        reply = await client.send(call, stream=True)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in reply.aiter_raw():
                    yield piece
            finally:
                await reply.aclose()

        return StreamingResponse(pieces(), reply.status_code, media_type=reply.headers.get("content-type"))

    return app


if __name__ == "__main__":
    port, upstream_port = map(int, sys.argv[1:3])
    uvicorn.run(
        create_app(f"http://127.0.0.1:{upstream_port}"), port=port, log_level="error", access_log=False
    )
