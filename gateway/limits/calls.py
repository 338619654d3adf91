"""The words of admission: what a call may use at most, what it used, and why it is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.keys import Key
from shared.problems import TooManyRequests


@dataclass(slots=True)
class Usage:
    """Tokens and whole micro-dollars of one finished (or broken off) call."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cost: int = 0
    failed: bool = False


@dataclass(slots=True, eq=False)
class Admission:
    """A call that may run: what was reserved for it and how it will be written down.

    `usd` and `tokens` are the worst case. `epoch` names the data set of Redis that holds the
    reservation, or is empty when the call was admitted by local limits. `so_far` tells what the
    running call has used. `meta` is the JSON list tenant, key, budget, service, model. A negative
    `requests_left` or `tokens_left` means unlimited.
    """

    id: str
    key: Key
    version: int
    budget_key: str
    usd: int
    tokens: int
    meta: bytes
    epoch: str = ""
    requests_left: int = -1
    tokens_left: int = -1
    started: float = 0.0
    so_far: Callable[[], Usage] = Usage
    settled: bool = False

    @property
    def reserved(self) -> bool:
        """Whether anything has to be given back."""
        return self.usd > 0 or self.tokens > 0


class RateLimited(TooManyRequests):
    code, title = "rate_limit_exceeded", "The key's rate is used up for now"


class TooManyTokens(TooManyRequests):
    code, title = "tokens_per_minute_exceeded", "The call alone is larger than the key's token rate"
