"""A circuit breaker per upstream. It judges finished exchanges, so a stream counts when it ends."""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from shared.upstream.errors import CircuitOpen


class BreakerState(Enum):
    """Closed lets everything through, open nothing, half-open one probe."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """Opens when at least `threshold` of the last `window` outcomes (and at least `minimum`) failed.

    `cooldown` seconds later one probe is let through; each failed probe doubles the wait up to
    `cooldown_cap`. Waits are spread by a fifth so that many gateways do not probe in step.
    """

    window: int = 20
    minimum: int = 5
    threshold: float = 0.5
    cooldown: float = 1.0
    cooldown_cap: float = 30.0


class CircuitBreaker:
    """Call `admit` before an exchange and exactly one of `success`, `failure`, `abandon` after it."""

    def __init__(
        self,
        name: str,
        policy: BreakerPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._policy = policy or BreakerPolicy()
        self._clock = clock
        self._outcomes: deque[bool] = deque(maxlen=self._policy.window)
        self._failures = 0
        self._open_until = 0.0
        self._cooldown = self._policy.cooldown
        self.state = BreakerState.CLOSED

    def admit(self) -> bool:
        """Whether this exchange is the probe; raises CircuitOpen while traffic is kept away."""
        if self.state is BreakerState.CLOSED:
            return False
        wait = self._open_until - self._clock()
        if self.state is BreakerState.OPEN and wait <= 0:
            self.state = BreakerState.HALF_OPEN
            return True
        raise CircuitOpen(
            f"upstream {self._name} failed too often and is left alone for a while",
            retry_after=max(wait, 0.1),
        )

    def success(self, probe: bool = False) -> None:
        """The exchange ended as it should."""
        if probe:
            self._close()
        elif self.state is BreakerState.CLOSED:
            self._record(failed=False)

    def failure(self, probe: bool = False) -> None:
        """The upstream failed: no connection, no or half an answer, or a server error."""
        if probe:
            self._cooldown = min(self._cooldown * 2, self._policy.cooldown_cap)
            self._open()
        elif self.state is BreakerState.CLOSED:
            self._record(failed=True)
            seen = len(self._outcomes)
            if seen >= self._policy.minimum and self._failures >= self._policy.threshold * seen:
                self._open()

    def abandon(self, probe: bool = False) -> None:
        """Our side gave up, which says nothing about the upstream; an unused probe is returned."""
        if probe:
            self.state = BreakerState.OPEN
            self._open_until = self._clock()

    def _record(self, failed: bool) -> None:
        if len(self._outcomes) == self._policy.window and self._outcomes[0]:
            self._failures -= 1
        self._outcomes.append(failed)
        self._failures += failed

    def _open(self) -> None:
        self.state = BreakerState.OPEN
        self._open_until = self._clock() + self._cooldown * random.uniform(0.8, 1.2)

    def _close(self) -> None:
        self.state = BreakerState.CLOSED
        self._outcomes.clear()
        self._failures = 0
        self._cooldown = self._policy.cooldown
