"""A small, fast HTTP/1.1 client for talking to the services and models behind us.

It knows connections, framing, deadlines and when an upstream had better be left alone. It refuses to
know what the bodies mean: nothing is decoded, decompressed, buffered whole or rewritten.
"""

from __future__ import annotations

from shared.upstream.breaker import BreakerPolicy, BreakerState, CircuitBreaker
from shared.upstream.errors import (
    CircuitOpen,
    ConnectFailed,
    ConnectTimeout,
    DeadlineReached,
    FirstByteTimeout,
    MalformedResponse,
    NotSent,
    ReadTimeout,
    Sent,
    UpstreamBusy,
    UpstreamDied,
    UpstreamError,
    WriteTimeout,
)
from shared.upstream.message import (
    HOP_BY_HOP,
    Headers,
    Request,
    Response,
    Timeouts,
    Upstream,
    end_to_end,
    header,
)
from shared.upstream.pool import HttpUpstream, UpstreamLimits

__all__ = [
    "HOP_BY_HOP",
    "BreakerPolicy",
    "BreakerState",
    "CircuitBreaker",
    "CircuitOpen",
    "ConnectFailed",
    "ConnectTimeout",
    "DeadlineReached",
    "FirstByteTimeout",
    "Headers",
    "HttpUpstream",
    "MalformedResponse",
    "NotSent",
    "ReadTimeout",
    "Request",
    "Response",
    "Sent",
    "Timeouts",
    "Upstream",
    "UpstreamBusy",
    "UpstreamDied",
    "UpstreamError",
    "UpstreamLimits",
    "WriteTimeout",
    "end_to_end",
    "header",
]
