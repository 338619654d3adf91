"""Logs, metrics and traces, set up once per process.

Logs are structlog JSON lines with the request id bound; values under secret-looking names are
blanked before they are rendered. Metrics live in one Prometheus registry per process. Traces are
sent only where an OTLP endpoint is configured and cost nothing otherwise.

structlog and OpenTelemetry are loaded when first used: the process of a job is started for every
job, and may log nothing.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import structlog
    from opentelemetry import trace

_SECRET_NAMES = re.compile(
    r"(secret|password|passwd|authorization|cookie|api_?key|bearer|credential|^token$|_token$)",
    re.I,
)
_SECRET_VALUES = re.compile(
    r"(lw_[A-Za-z0-9_-]{8,}|eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+|(?<=://)[^/\s:@]*:[^/\s@]+(?=@))"
)
BLANK = "[hidden]"

_bound: ContextVar[dict[str, Any]] = ContextVar("latticework_bound")
"""What `bound` adds to every log line of this thread or task."""

_configuring = threading.RLock()
_deferred: Callable[[], None] | None = None


def hide_secrets(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """structlog processor: blank secrets by the name of the field and by the look of the value."""
    return {name: _clean(name, value) for name, value in event.items()}


def _clean(name: str, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _clean(str(key), inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(name, inner) for inner in value]
    if isinstance(value, str):
        return BLANK if _SECRET_NAMES.search(name) else _SECRET_VALUES.sub(BLANK, value)
    return value


class LogSettings(Protocol):
    """The part of the settings this module reads."""

    @property
    def log_level(self) -> str: ...
    @property
    def log_format(self) -> str: ...
    @property
    def otel_endpoint(self) -> str | None: ...


@contextmanager
def bound(**names: Any) -> Iterator[None]:
    """Add `names` to every log line written within; other threads do not see them."""
    token = _bound.set({**_bound.get({}), **names})
    try:
        yield
    finally:
        _bound.reset(token)


def _add_bound(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    for name, value in _bound.get({}).items():
        event.setdefault(name, value)
    return event


def configure_when_used(service: str, settings: LogSettings) -> None:
    """`configure`, put off until something is logged or a module asks for its logger.

    Code that imports structlog itself, and not by way of `logger`, must call `configure_now` first.
    """
    global _deferred
    _bound.set({**_bound.get({}), "service": service})
    _set_levels(settings)
    stand_in = _StandIn()
    logging.getLogger().handlers[:] = [stand_in]
    _deferred = partial(_replace, stand_in, settings)
    if settings.otel_endpoint:
        _send_traces(service, settings.otel_endpoint)


def configure_now() -> None:
    """Do what `configure_when_used` has put off, if anything."""
    global _deferred
    with _configuring:
        deferred, _deferred = _deferred, None
        if deferred is not None:
            try:
                deferred()
            except BaseException:
                _deferred = deferred
                raise


class _StandIn(logging.Handler):
    """Stands for the real handler until there is something to write."""

    real: logging.Handler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            configure_now()
        except Exception:
            self.handleError(record)
        if self.real is not None:
            self.real.handle(record)


def _replace(stand_in: _StandIn, settings: LogSettings) -> None:
    # Only the stand-in: what others have added to the root logger meanwhile stays.
    real = stand_in.real = _set_up_logging(settings)
    handlers = logging.getLogger().handlers
    handlers[:] = [real if handler is stand_in else handler for handler in handlers]


def configure(service: str, settings: LogSettings) -> None:
    """Set up logging and, where an endpoint is configured, tracing for this process."""
    import structlog

    _set_levels(settings)
    logging.getLogger().handlers[:] = [_set_up_logging(settings)]
    structlog.contextvars.bind_contextvars(service=service)
    if settings.otel_endpoint:
        _send_traces(service, settings.otel_endpoint)


def _set_levels(settings: LogSettings) -> None:
    level = getattr(logging, settings.log_level.upper())
    logging.getLogger().setLevel(level)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "aiosqlite", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


def _set_up_logging(settings: LogSettings) -> logging.Handler:
    """Configure structlog; the handler that writes what both it and the standard library are told."""
    import structlog

    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_bound,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        hide_secrets,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    return handler


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The structured logger of a module."""
    import structlog

    configure_now()
    log: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return log


def tracer(name: str) -> trace.Tracer:
    """The tracer of a module; spans are dropped unless tracing is configured."""
    from opentelemetry import trace

    return trace.get_tracer(name)


def _send_traces(service: str, endpoint: str) -> None:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"latticework-{service}"}))
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
    )
    trace.set_tracer_provider(provider)
