"""What can go wrong between us and an upstream, ordered by what a caller can do about it.

UpstreamError
 ├── NotSent               the upstream has seen nothing: any call may be tried again or elsewhere
 │    ├── ConnectFailed     refused, unreachable, TLS failed
 │    ├── ConnectTimeout    the connection did not stand within `Timeouts.connect`
 │    ├── UpstreamBusy      the concurrency limit is reached and the queue is full or too slow
 │    └── CircuitOpen       the breaker keeps traffic away for `retry_after` seconds
 └── Sent                  the upstream may have begun to work: only replayable calls may be repeated
      ├── WriteTimeout      it stopped taking the request
      ├── FirstByteTimeout  it took the request and answered nothing
      ├── ReadTimeout       it fell silent in the middle of its answer
      ├── DeadlineReached   the caller's own deadline passed
      ├── UpstreamDied      the connection ended before the answer did
      └── MalformedResponse what came is not HTTP/1.1, or its head is too large
"""

from __future__ import annotations


class UpstreamError(Exception):
    """Root of the tree. `retry_after` is in seconds, where waiting is known to help."""

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class NotSent(UpstreamError):
    """Nothing reached the upstream."""


class ConnectFailed(NotSent):
    """No connection could be made."""


class ConnectTimeout(NotSent):
    """No connection was made in time."""


class UpstreamBusy(NotSent):
    """Our own limit of concurrent calls to this upstream is reached."""


class CircuitOpen(NotSent):
    """The upstream failed too often lately; calls are refused until the next probe."""


class Sent(UpstreamError):
    """The upstream may have seen the request."""


class WriteTimeout(Sent):
    """The upstream stopped reading the request."""


class FirstByteTimeout(Sent):
    """No head of an answer came in time."""


class ReadTimeout(Sent):
    """The answer stopped in the middle."""


class DeadlineReached(Sent):
    """The deadline that came with the request has passed."""


class UpstreamDied(Sent):
    """The connection was closed or reset before the answer was complete."""


class MalformedResponse(Sent):
    """The answer breaks HTTP/1.1 or a bound of ours."""
