"""A whole gateway on a real port, in the test's own event loop, before scripted upstreams."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import uvicorn

from gateway.app import create_app
from gateway.keys import new_secret
from gateway.limits import Limiter
from gateway.management import Management, new_key_row
from gateway.proxy.frontdoor import FrontDoor
from gateway.schemas import KeyCreate
from gateway.server import Guard
from gateway.settings import GatewaySettings
from shared.app import free_port
from shared.principal import Principal
from shared.upstream import HttpUpstream, Request, Response, Timeouts
from tests.conftest import SECRET
from tests.unit.upstream.servers import Call, Handler

CHAT = "/v1/chat/completions"
BODY = {"model": "default", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}
HELLO = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "default",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
}
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def http(status: int, body: bytes, *, kind: str = "application/json", extra: str = "") -> bytes:
    """A whole answer of an upstream."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def chunk(data: bytes) -> bytes:
    """One HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(content: str = "word", **members: Any) -> bytes:
    """One streamed piece of a chat completion."""
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": None}
    return b"data: " + orjson.dumps({"id": "c", "choices": [choice], **members}) + b"\n\n"


def usage_event(prompt: int, completion: int, **members: Any) -> bytes:
    """The piece that carries nothing but usage."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, **members}
    return b"data: " + orjson.dumps({"id": "c", "choices": [], "usage": usage}) + b"\n\n"


DONE = b"data: [DONE]\n\n"
END = b"0\r\n\r\n"


def answers(body: dict[str, Any] = HELLO, status: int = 200) -> Handler:
    """An upstream that always says the same."""

    async def handler(call: Call) -> None:
        await call.body()
        await call.send(http(status, orjson.dumps(body)))

    return handler


def streams(*events: bytes, end: bool = True) -> Handler:
    """An upstream that streams `events`, each in a packet of its own."""

    async def handler(call: Call) -> None:
        await call.body()
        await call.send(SSE)
        for data in events:
            await call.send(chunk(data))
            await asyncio.sleep(0.002)
        if end:
            await call.send(END)

    return handler


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass
class Live:
    """A running gateway and a client for it."""

    url: str
    app: FrontDoor
    admin: str
    client: HttpUpstream
    settings: GatewaySettings

    @property
    def management(self) -> Management:
        found: Management = self.app.state.management
        return found

    @property
    def limiter(self) -> Limiter:
        return self.app.front.limiter

    async def new_key(
        self, *, tenant: str = "acme", scopes: tuple[str, ...] = ("model",), **fields: Any
    ) -> str:
        """A key in clear."""
        body = KeyCreate.model_validate({"name": "test", "scopes": list(scopes), **fields})
        admin = Principal("key_admin", tenant, frozenset({"admin"}))
        return (await self.management.create_key(admin, body, None)).key

    async def open(
        self,
        method: str,
        path: str,
        *,
        key: str | None = None,
        body: Any = b"",
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Send; the answer's body is for the caller to read."""
        fields = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        fields.append((b"authorization", f"Bearer {self.admin if key is None else key}".encode()))
        if isinstance(body, dict | list):
            body = orjson.dumps(body)
            fields.append((b"content-type", b"application/json"))
        return await self.client.open(Request(method, path, fields, body))

    async def call(self, method: str, path: str, **options: Any) -> Answer:
        """Send and read everything."""
        response = await self.open(method, path, **options)
        body = await response.read_all(100_000_000)
        headers = {name.decode(): value.decode() for name, value in response.headers}
        return Answer(response.status, headers, body)

    async def chat(self, key: str, **fields: Any) -> Answer:
        """A chat completion."""
        return await self.call("POST", CHAT, key=key, body={**BODY, **fields})

    async def usage(self, key_id: str | None = None, **filters: str) -> dict[str, Any]:
        """Everything acme used, as one row; what is on its way to Redis is waited for."""
        while self.limiter._unconfirmed:
            await asyncio.sleep(0.005)
        await self.management._ledger.flush()
        today = datetime.now(UTC).date()
        rows = await self.management.usage.report(
            "acme",
            group_by=[],
            first=today - timedelta(days=1),
            last=today,
            filters=filters,
            offset=0,
            limit=2,
        )
        return rows[0] if rows else {}


@contextlib.asynccontextmanager
async def gateway(
    redis_url: str, home: Path, upstreams: dict[str, str], *, guard: Guard | None = None, **settings: Any
) -> AsyncIterator[Live]:
    """Start a gateway; `settings` are fields of GatewaySettings without their prefix."""
    home.mkdir(parents=True, exist_ok=True)
    values: dict[str, Any] = {
        "home": home,
        "redis_url": redis_url,
        "principal_secret": SECRET,
        "gateway_upstreams": upstreams,
        "gateway_flush_seconds": 0.2,
        "gateway_redis_timeout_seconds": 0.5,
        "log_level": "error",
    }
    named = {
        name if name in GatewaySettings.model_fields else f"gateway_{name}": value
        for name, value in settings.items()
    }
    loaded = GatewaySettings(**(values | named))
    app = create_app(loaded)
    port = free_port()
    config = uvicorn.Config(
        app,
        port=port,
        http=(guard or Guard()).protocol(),
        log_config=None,
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=int(loaded.gateway_keep_alive_seconds),
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(20):
        while not server.started:
            await asyncio.sleep(0.01)
            if serving.done():
                serving.result()
    secret = new_secret()
    await app.state.management.store.add(new_key_row("acme", "admin", secret, ["admin"]))
    client = HttpUpstream(f"http://127.0.0.1:{port}", breaker=None, timeouts=Timeouts(read=10, first_byte=20))
    try:
        yield Live(f"http://127.0.0.1:{port}", app, secret, client, loaded)
    finally:
        await client.close()
        server.should_exit = True
        await serving
