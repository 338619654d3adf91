"""Logs, metrics and traces, set up once per process.

Logs are structlog JSON lines with the request id bound; values under secret-looking names are
blanked before they are rendered. Metrics live in one Prometheus registry per process. Traces are
sent only where an OTLP endpoint is configured and cost nothing otherwise.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import Any, Protocol

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


def configure(service: str, settings: LogSettings) -> None:
    """Set up logging and, where an endpoint is configured, tracing for this process."""
    level = getattr(logging, settings.log_level.upper())
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
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
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("httpx", "httpcore", "uvicorn.access", "aiosqlite", "alembic"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
    structlog.contextvars.bind_contextvars(service=service)
    if settings.otel_endpoint:
        _send_traces(service, settings.otel_endpoint)


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The structured logger of a module."""
    bound: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return bound


def tracer(name: str) -> trace.Tracer:
    """The tracer of a module; spans are dropped unless tracing is configured."""
    return trace.get_tracer(name)


def _send_traces(service: str, endpoint: str) -> None:
    # Imported here: the exporter takes as long to load as the rest of a job's process together.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"latticework-{service}"}))
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))
    )
    trace.set_tracer_provider(provider)
