"""The application factory: every service is made here, so every service behaves alike.

Request ids, principal check, body limit, problem documents, metrics, traces, `/healthz` (not stuck),
`/readyz` (can work now; names what cannot) and `/metrics` come with it, and a drain on SIGTERM.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shared import telemetry
from shared.middleware import (
    Authenticator,
    BodyLimitMiddleware,
    HttpMetrics,
    ObserveMiddleware,
    PrincipalMiddleware,
    token_authenticator,
)
from shared.principal import PrincipalSigner
from shared.problems import (
    BadRequest,
    FieldError,
    Forbidden,
    InternalError,
    PayloadTooLarge,
    Problem,
    ProblemDocument,
    ServiceUnavailable,
    TooManyRequests,
    Unauthorized,
    Unprocessable,
    from_status,
    is_openai_path,
    responses,
)
from shared.settings import ConfigurationError, ServiceSettings, SettingsType, load_settings

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]
ReadinessCheck = Callable[[], Awaitable[str | None]]
"""Returns None when ready, else a short reason."""

LOOP_LAG_INTERVAL = 0.5
READINESS_TIMEOUT = 5.0
UNSTORABLE = ("22021", "22P05")
"""What PostgreSQL says of text it cannot hold; SQLite holds it."""


class Health(BaseModel):
    """Answer of `/healthz` and `/readyz`."""

    status: str
    not_ready: dict[str, str] = {}


def create_app(
    *,
    service: str,
    settings: ServiceSettings,
    title: str,
    routers: Sequence[APIRouter] = (),
    lifespan: Lifespan | None = None,
    readiness: Mapping[str, ReadinessCheck] | None = None,
    authenticator: Authenticator | None = None,
    description: str = "",
) -> FastAPI:
    """Make a service.

    `app.state` offers `settings`, `signer` (PrincipalSigner), `registry` (Prometheus) and `draining`.
    Without `authenticator` the service accepts principal tokens addressed to `service`.
    """
    registry = CollectorRegistry()
    signer = PrincipalSigner(settings.principal_secret.get_secret_value())
    checks = dict(readiness or {})

    @asynccontextmanager
    async def run(app: FastAPI) -> AsyncIterator[None]:
        telemetry.configure(service, settings)
        lag = asyncio.create_task(_measure_loop_lag(registry, service))
        try:
            async with lifespan(app) if lifespan else contextlib.nullcontext():
                yield
        finally:
            lag.cancel()

    app = FastAPI(
        title=title,
        description=description,
        version="1",
        lifespan=run,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        responses=responses(
            BadRequest, Unauthorized, Forbidden, PayloadTooLarge, Unprocessable, TooManyRequests,
            InternalError, ServiceUnavailable,
        ),
    )  # fmt: skip
    app.state.settings, app.state.signer, app.state.registry = settings, signer, registry
    app.state.draining = False
    _add_operations_routes(app, registry, checks)
    for router in routers:
        app.include_router(router)
    _add_error_handlers(app)
    _declare_problem_schema(app)
    # Added innermost first: observe wraps authenticate wraps the body limit.
    app.add_middleware(BodyLimitMiddleware, limit=settings.body_limit_bytes)
    token = settings.metrics_token
    app.add_middleware(
        PrincipalMiddleware,
        authenticate=authenticator or token_authenticator(signer, service),
        metrics_token=token.get_secret_value() if token else None,
    )
    app.add_middleware(ObserveMiddleware, metrics=HttpMetrics(registry, service))
    if settings.otel_endpoint:
        app.add_middleware(OpenTelemetryMiddleware)
    return app


def _add_operations_routes(
    app: FastAPI, registry: CollectorRegistry, checks: Mapping[str, ReadinessCheck]
) -> None:
    @app.get("/healthz", tags=["operations"], summary="Whether the process is alive")
    async def healthz() -> Health:
        return Health(status="ok")

    @app.get(
        "/readyz",
        tags=["operations"],
        summary="Whether the service can do its work now",
        responses={503: {"model": Health, "description": "Not ready; `not_ready` says what and why"}},
    )
    async def readyz() -> JSONResponse:
        reasons = await failing_checks(checks)
        if app.state.draining:
            reasons["drain"] = "the service is stopping"
        body = Health(status="not ready" if reasons else "ready", not_ready=reasons)
        return JSONResponse(body.model_dump(), status_code=503 if reasons else 200)

    @app.get("/metrics", tags=["operations"], include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def failing_checks(checks: Mapping[str, ReadinessCheck]) -> dict[str, str]:
    """Run readiness checks side by side; the names and reasons of those that fail."""

    async def reason(check: ReadinessCheck) -> str | None:
        try:
            return await asyncio.wait_for(check(), READINESS_TIMEOUT)
        except TimeoutError:
            return f"no answer within {READINESS_TIMEOUT:g} s"
        except Exception as error:
            return f"{type(error).__name__}: {error}"[:200]

    results = await asyncio.gather(*(reason(check) for check in checks.values()))
    return {name: why for name, why in zip(checks, results, strict=True) if why is not None}


def _add_error_handlers(app: FastAPI) -> None:
    def render(request: Request, problem: Problem) -> JSONResponse:
        request_id = request.scope.get("state", {}).get("request_id")
        document, media_type = problem.body_for(request.url.path, request_id=request_id)
        return JSONResponse(
            document, status_code=problem.status, headers=problem.headers, media_type=media_type
        )

    async def on_problem(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Problem)
        return render(request, error)

    async def on_invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        kind = BadRequest if is_openai_path(request.url.path) else Unprocessable
        return render(request, validation_problem(error.errors(), kind))

    async def on_http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, Problem):  # FastAPI hides what reading a body raised.
            return render(request, error.__cause__)
        return render(request, from_status(error.status_code, str(error.detail), error.headers))

    async def on_database(request: Request, error: Exception) -> JSONResponse:
        if getattr(getattr(error, "orig", None), "sqlstate", None) not in UNSTORABLE:
            raise error
        return render(request, Unprocessable("Text cannot hold the character U+0000."))

    app.add_exception_handler(DBAPIError, on_database)
    app.add_exception_handler(Problem, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)


def validation_problem(errors: Sequence[Mapping[str, Any]], kind: type[Problem] = Unprocessable) -> Problem:
    """A problem naming every field that pydantic refused, without repeating the input."""
    fields = [
        FieldError(location=".".join(str(part) for part in error["loc"]), message=str(error["msg"]))
        for error in jsonable_encoder(list(errors), exclude={"input", "ctx"})
    ]
    detail = "; ".join(f"{field.location}: {field.message}" for field in fields[:3])
    return kind(detail or None, errors=fields[:32])


def _declare_problem_schema(app: FastAPI) -> None:
    """Put `ProblemDocument` into the OpenAPI components; the `responses` of routes refer to it."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = original()
            components = schema.setdefault("components", {}).setdefault("schemas", {})
            template = "#/components/schemas/{model}"
            document = ProblemDocument.model_json_schema(ref_template=template)
            components.update(document.pop("$defs", {}))
            components["ProblemDocument"] = document
            _drop_framework_validation_errors(schema)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _drop_framework_validation_errors(schema: dict[str, Any]) -> None:
    """FastAPI documents its own 422 body, which we never send; ours takes its place."""
    entry = responses(Unprocessable)[422]
    for operations in schema.get("paths", {}).values():
        for operation in operations.values():
            answers = operation.get("responses", {})
            content = answers.get("422", {}).get("content", {}).get("application/json", {})
            if content.get("schema", {}).get("$ref", "").endswith("HTTPValidationError"):
                answers["422"] = entry
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


async def _measure_loop_lag(registry: CollectorRegistry, service: str) -> None:
    gauge = Gauge(
        "latticework_event_loop_lag_seconds",
        "How late the event loop wakes up",
        ("service",),
        registry=registry,
    ).labels(service)
    loop = asyncio.get_running_loop()
    while True:
        before = loop.time()
        await asyncio.sleep(LOOP_LAG_INTERVAL)
        gauge.set(max(0.0, loop.time() - before - LOOP_LAG_INTERVAL))


class Stateful(Protocol):
    """An ASGI application with `state.draining`: one of `create_app`, or what stands around one."""

    @property
    def state(self) -> Any: ...

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


class _DrainingServer(uvicorn.Server):
    """Answers 503 on `/readyz` from the moment a stop is asked for."""

    def __init__(self, config: uvicorn.Config, app: Stateful) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._app.state.draining = True
        super().handle_exit(sig, frame)


def serve(app: Stateful, settings: ServiceSettings, **options: Any) -> None:
    """Run a service until SIGTERM or SIGINT; running requests get `drain_seconds` to finish.

    `options` are uvicorn's and win over ours.
    """
    defaults: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "loop": "uvloop",
        "http": "httptools",
        "access_log": False,
        "log_config": None,
        "server_header": False,
        "timeout_graceful_shutdown": max(1, int(settings.drain_seconds)),
    }
    config = uvicorn.Config(app, **(defaults | options))
    _DrainingServer(config, app).run()


def main(factory: Callable[[SettingsType], FastAPI], kind: type[SettingsType]) -> None:
    """Entry of `python -m services.<name>`: settings, application, server; exit 2 on a wrong setting."""
    try:
        settings = load_settings(kind)
        app = factory(settings)
    except ConfigurationError as error:
        print(f"{kind.service}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    telemetry.configure(kind.service, settings)
    serve(app, settings)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port nobody listens on at the moment of asking."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
