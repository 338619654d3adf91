"""The public API in one table: which path belongs to which room, and what it takes to enter.

A new service is one line here and one address in `LATTICEWORK_GATEWAY_UPSTREAMS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Metering(Enum):
    """How a call is paid."""

    REQUEST = "request"
    """By its price per request (usually nothing); what it spends on models is metered at the model."""
    CHAT = "chat"
    COMPLETION = "completion"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class Route:
    """A path and everything below it. `body_limit` in bytes; None means the gateway's setting."""

    prefix: str
    service: str
    scope: str
    metering: Metering = Metering.REQUEST
    body_limit: int | None = None

    @property
    def metered(self) -> bool:
        """Whether tokens are reserved before and settled after the call."""
        return self.metering is not Metering.REQUEST


UPLOAD_LIMIT = 64 << 30
"""Checkpoints and adapters are streamed through, so only the disk behind the service bounds them."""

ROUTES = (
    Route("/v1/chat/completions", "model", "model", Metering.CHAT),
    Route("/v1/completions", "model", "model", Metering.COMPLETION),
    Route("/v1/embeddings", "model", "model", Metering.EMBEDDING),
    Route("/v1/models", "model", "model"),
    Route("/v1/engines", "model", "model"),
    Route("/v1/artifacts", "model", "model", body_limit=UPLOAD_LIMIT),
    Route("/v1/sql", "text2sql", "sql"),
    Route("/v1/vision", "vision", "vision"),
    Route("/v1/adaptation", "adaptation", "adaptation"),
    Route("/v1/scheduler", "scheduler", "scheduler"),
    Route("/v1/training", "training", "training"),
    Route("/v1/agents", "agents", "agents"),
    Route("/v1/research", "research", "research"),
)

MANAGEMENT = ("/v1/keys", "/v1/budgets", "/v1/usage", "/v1/prices", "/v1/jobs")
"""Answered by the gateway's own management application, not proxied."""

SCOPES = frozenset({route.scope for route in ROUTES} | {"admin"})

_EXACT = {route.prefix: route for route in ROUTES}
_DEEPEST = max(route.prefix.count("/") for route in ROUTES)


def find_route(path: str) -> Route | None:
    """The room `path` leads to; whole segments count, so `/v1/sqlite` is not `/v1/sql`."""
    route = _EXACT.get(path)
    if route is not None:
        return route
    segments = path.split("/", _DEEPEST + 1)
    for depth in range(min(len(segments), _DEEPEST + 1), 1, -1):
        route = _EXACT.get("/".join(segments[:depth]))
        if route is not None:
            # Metered calls are POSTs to the exact path; below them there is nothing to buy.
            return None if route.metered else route
    return None


def is_management(path: str) -> bool:
    """Whether the gateway itself answers `path`."""
    return any(path == prefix or path.startswith(prefix + "/") for prefix in MANAGEMENT)
