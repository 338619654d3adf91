"""Plain ASGI middleware every service wears, outermost first: observe, authenticate, bound the body.

Each is a class with `__call__(scope, receive, send)`; none buffers a body in either direction.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from ulid import ULID

from shared.database import is_away
from shared.principal import ADMIN, Principal, PrincipalSigner
from shared.problems import (
    Forbidden,
    InternalError,
    PayloadTooLarge,
    Problem,
    ServiceUnavailable,
    Unauthorized,
)
from shared.telemetry import logger

log = logger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
REQUEST_ID_HEADER = "X-Request-Id"
TENANT_HEADER = "Lattice-Tenant"
LATENCY_BUCKETS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    300,
)

Authenticator = Callable[[Scope], Awaitable[Principal]]


class HttpMetrics:
    """Request counts, durations and requests in flight of one process."""

    def __init__(self, registry: CollectorRegistry, service: str) -> None:
        labels = ("service", "route", "method", "status")
        self.service = service
        self.requests = Counter("latticework_http_requests", "Answered requests", labels, registry=registry)
        self.seconds = Histogram(
            "latticework_http_request_seconds",
            "Time from the first byte in to the last byte out",
            ("service", "route"),
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )
        self.in_flight = Gauge(
            "latticework_http_requests_in_flight",
            "Requests being answered",
            ("service",),
            registry=registry,
        ).labels(service)

    def record(self, route: str, method: str, status: int, seconds: float) -> None:
        self.requests.labels(self.service, route, method, str(status)).inc()
        self.seconds.labels(self.service, route).observe(seconds)


async def send_problem(problem: Problem, scope: Scope, send: Send) -> None:
    """Answer with a problem, in the shape the path calls for."""
    request_id = scope.get("state", {}).get("request_id")
    document, media_type = problem.body_for(scope["path"], request_id=request_id)
    body = orjson.dumps(document)
    headers = [
        (b"content-type", media_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in problem.headers.items()),
    ]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class DatabaseAway(ServiceUnavailable):
    code, title = "database_unavailable", "The service's database does not answer"


class ObserveMiddleware:
    """Gives each request an id, counts and times it, and turns stray exceptions into problems."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        self.metrics.in_flight.inc()
        try:
            with structlog.contextvars.bound_contextvars(request_id=request_id):
                await self._run(scope, receive, observed_send, answered=lambda: status != 0)
        finally:
            self.metrics.in_flight.dec()
            route = getattr(scope.get("route"), "path", "unmatched")
            self.metrics.record(route, scope["method"], status, time.perf_counter() - started)

    async def _run(self, scope: Scope, receive: Receive, send: Send, *, answered: Callable[[], bool]) -> None:
        try:
            await self.app(scope, receive, send)
        except Exception as error:
            problem = _as_problem(error, scope)
            if answered():
                raise
            await send_problem(problem, scope, send)


def _as_problem(error: Exception, scope: Scope) -> Problem:
    if isinstance(error, Problem):
        return error
    if is_away(error):
        log.warning("the database is away", path=scope["path"], method=scope["method"], error=str(error))
        return DatabaseAway("The database cannot be reached at the moment.", retry_after=2)
    log.exception("request failed", path=scope["path"], method=scope["method"])
    return InternalError("Something went wrong on our side; the log has it under this request id.")


def _request_id(given: str | None) -> str:
    if given and len(given) <= 128 and given.isascii() and given.isprintable() and " " not in given:
        return given
    return f"req_{ULID()}"


class PrincipalMiddleware:
    """No request passes without a principal, except on the paths that must always answer."""

    def __init__(self, app: ASGIApp, authenticate: Authenticator, metrics_token: str | None) -> None:
        self.app = app
        self.authenticate = authenticate
        self.metrics_token = metrics_token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS or self._is_scraper(scope):
            await self.app(scope, receive, send)
            return
        try:
            principal = await self.authenticate(scope)
            if scope["path"] == "/metrics" and not principal.allows(ADMIN):
                raise Forbidden("Metrics need the scope 'admin' or the metrics token.")
        except Problem as problem:
            await send_problem(problem, scope, send)
            return
        scope.setdefault("state", {})["principal"] = principal
        await self.app(scope, receive, send)

    def _is_scraper(self, scope: Scope) -> bool:
        if scope["path"] != "/metrics" or not self.metrics_token:
            return False
        return hmac.compare_digest(bearer_token(scope) or "", self.metrics_token)


def bearer_token(scope: Scope) -> str | None:
    """The bearer token of the request, or None."""
    kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
    return token.strip() or None if kind.lower() == "bearer" else None


def token_authenticator(signer: PrincipalSigner, audience: str) -> Authenticator:
    """Authenticate by the principal token addressed to `audience`."""

    async def authenticate(scope: Scope) -> Principal:
        token = bearer_token(scope)
        if token is None:
            raise Unauthorized("This service takes only principal tokens; call it through the gateway.")
        principal = signer.verify(token, audience=audience)
        claimed = Headers(scope=scope).get(TENANT_HEADER)
        if claimed is not None and claimed != principal.tenant:
            raise Forbidden("The principal token belongs to another tenant.", code="tenant_mismatch")
        return principal.with_request(scope["state"]["request_id"])

    return authenticate


class BodyLimitMiddleware:
    """Cuts a body off at `limit` bytes, by its declared length before reading and by count while reading."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit: int = scope.get("state", {}).get("body_limit", self.limit)
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared) > limit:
            await send_problem(_too_large(limit), scope, send)
            return
        seen = 0

        async def bounded_receive() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > limit:
                    raise _too_large(limit)
            return message

        await self.app(scope, bounded_receive, send)


def _too_large(limit: int) -> Problem:
    return PayloadTooLarge(f"The body is larger than {limit} bytes.", headers={"Connection": "close"})


def state_of(scope: Scope) -> dict[str, Any]:
    """The request's state dictionary, made when absent."""
    state: dict[str, Any] = scope.setdefault("state", {})
    return state
