"""Limits of this process alone, for the keys an operator wants served while Redis is away.

They start empty with every outage. The rate is the key's own; money is bounded by a setting, because
nobody can say what other processes spend meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.keys import Key
from gateway.limits.calls import RateLimited
from shared.problems import BudgetExceeded


@dataclass(slots=True)
class _Tally:
    window: int = 0
    requests: int = 0
    tokens: int = 0
    usd: int = 0
    """Micro-dollars reserved or spent in this outage."""


class LocalLimits:
    """Admits and settles calls without Redis; `allowance` in micro-dollars per key and outage."""

    def __init__(self, keys: frozenset[str], allowance: int, clock: Callable[[], float] = time.time) -> None:
        self.keys = keys
        self._allowance = allowance
        self._clock = clock
        self._tallies: dict[str, _Tally] = {}

    def reserve(self, key: Key, rate_tokens: int, usd: int) -> None:
        """Count a call in.

        Raises:
            RateLimited, BudgetExceeded
        """
        tally = self._tallies.setdefault(key.id, _Tally())
        now = self._clock()
        window = int(now // 60)
        if tally.window != window:
            tally.window, tally.requests, tally.tokens = window, 0, 0
        retry = 60 - now % 60
        if 0 <= key.requests_per_minute <= tally.requests:
            raise RateLimited("The key's requests for this minute are used up.", retry_after=retry)
        if key.tokens_per_minute >= 0 and tally.tokens + rate_tokens > key.tokens_per_minute:
            raise RateLimited("The key's tokens for this minute are used up.", retry_after=retry)
        if usd and tally.usd + usd > self._allowance:
            raise BudgetExceeded("The key's allowance while its budget cannot be checked is used up.")
        tally.requests += 1
        tally.tokens += rate_tokens
        tally.usd += usd

    def settle(self, key: Key, reserved: int, cost: int) -> None:
        """Replace what was reserved by what it cost, both in micro-dollars."""
        tally = self._tallies.get(key.id)
        if tally is not None:
            tally.usd += cost - reserved

    def reset(self) -> None:
        """Redis is back."""
        self._tallies.clear()
