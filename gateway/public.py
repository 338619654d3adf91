"""What the front door answers without a key: whether it is ready, and what the suite can do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from importlib import resources

import orjson
from starlette.types import Scope, Send

from gateway.openapi import MergedOpenApi
from gateway.proxy.upstreams import Upstreams
from shared.app import ReadinessCheck, failing_checks
from shared.upstream import Request, UpstreamError

ASSETS = {
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", b"text/javascript; charset=utf-8"),
    "/docs/swagger-ui.css": ("swagger-ui.css", b"text/css; charset=utf-8"),
    "/docs/favicon.png": ("favicon.png", b"image/png"),
}
_PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Latticework</title>
<link rel="icon" href="/docs/favicon.png"><link rel="stylesheet" href="/docs/swagger-ui.css"></head>
<body><div id="ui"></div><script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script></body></html>
"""
_START = b"""SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#ui", deepLinking: true, persistAuthorization: true
});
"""
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; connect-src 'self'"
)
_ASK_SECONDS = 3.0

Content = tuple[int, bytes, bytes]


class PublicPages:
    """Answers a few paths itself; `answer` gives None for all others."""

    def __init__(
        self,
        openapi: MergedOpenApi,
        own_checks: Mapping[str, ReadinessCheck],
        upstreams: Upstreams,
        draining: Callable[[], bool],
    ) -> None:
        self._openapi = openapi
        self._own_checks = own_checks
        self._upstreams = upstreams
        self._draining = draining
        self._assets: dict[str, bytes] = {}

    async def answer(self, path: str) -> Content | None:
        """Status, media type and body for `path`."""
        if path == "/readyz":
            return await self._ready()
        if path == "/openapi.json":
            return 200, b"application/json", await self._openapi.get()
        if path in ("/docs", "/docs/"):
            return 200, b"text/html; charset=utf-8", _PAGE
        if path == "/docs/start.js":
            return 200, b"text/javascript; charset=utf-8", _START
        if path in ASSETS:
            name, media_type = ASSETS[path]
            return 200, media_type, self._asset(name)
        return None

    async def send(self, content: Content, scope: Scope, send: Send) -> None:
        """Send an answer of `answer`."""
        status, media_type, body = content
        headers = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(body)),
            (b"x-content-type-options", b"nosniff"),
            (b"content-security-policy", _POLICY),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    async def _ready(self) -> Content:
        """Not ready is what stops all traffic here; a silent service only degrades the suite."""
        own, services = await asyncio.gather(failing_checks(self._own_checks), self._silent_services())
        if self._draining():
            own["drain"] = "the gateway is stopping"
        status = "not ready" if own else "degraded" if services else "ready"
        body = orjson.dumps({"status": status, "not_ready": own | services})
        return 503 if own else 200, b"application/json", body

    async def _silent_services(self) -> dict[str, str]:
        names = list(self._upstreams.probes)
        answers = await asyncio.gather(*(self._ask(name) for name in names))
        return {name: why for name, why in zip(names, answers, strict=True) if why is not None}

    async def _ask(self, service: str) -> str | None:
        deadline = asyncio.get_running_loop().time() + _ASK_SECONDS
        request = Request("GET", "/readyz", replayable=True, deadline=deadline)
        try:
            response = await self._upstreams.probes[service].open(request)
            body = await response.read_all(65536)
        except UpstreamError as error:
            return str(error)
        if response.status == 200:
            return None
        try:
            reasons = orjson.loads(body)["not_ready"]
            return "; ".join(f"{name}: {why}" for name, why in reasons.items()) or "not ready"
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return f"answers {response.status}"

    def _asset(self, name: str) -> bytes:
        if name not in self._assets:
            folder = resources.files("fastapi_offline").joinpath("static")
            self._assets[name] = folder.joinpath(name).read_bytes()
        return self._assets[name]
