"""The budget of one question: model calls by share, tokens, wall time and sandbox time.

A call is paid for before it starts; what runs out is remembered and reported, never raised.
"""

from __future__ import annotations

from services.text2sql.pisql.configuration import Budget, Share
from services.text2sql.pisql.objects import BudgetUse
from services.text2sql.pisql.ports import Clock


class BudgetMeter:
    """Counts what a question consumes against its budget."""

    def __init__(self, budget: Budget, clock: Clock) -> None:
        self._budget = budget
        self._clock = clock
        self._started = clock()
        self._left = dict(budget.calls)
        self._calls = 0
        self._prompt_tokens = 0
        self._completion_tokens = 0
        self._sandbox_cpu_seconds = 0.0
        self._exhausted = False

    def take_call(self, share: Share) -> bool:
        """Pay for one model call from a share; False (and remembered) when nothing is left."""
        if self._left.get(share, 0) < 1 or self._spent():
            self._exhausted = True
            return False
        self._left[share] -= 1
        self._calls += 1
        return True

    def calls_left(self, share: Share) -> int:
        """Calls a share still has, 0 when another limit is spent."""
        return 0 if self._spent() else self._left.get(share, 0)

    def record_tokens(self, prompt: int, completion: int) -> None:
        """Add the tokens of a call that ended."""
        self._prompt_tokens += prompt
        self._completion_tokens += completion

    def record_sandbox(self, cpu_ms: float) -> None:
        """Add the CPU time of a program run."""
        self._sandbox_cpu_seconds += cpu_ms / 1_000

    def sandbox_left(self) -> bool:
        """Whether another program may run."""
        if self._sandbox_cpu_seconds < self._budget.sandbox_cpu_seconds and not self._late():
            return True
        self._exhausted = True
        return False

    def seconds_left(self) -> float:
        """Wall seconds until the question's deadline, never negative."""
        return max(0.0, self._budget.wall_seconds - (self._clock() - self._started))

    def _late(self) -> bool:
        return self.seconds_left() <= 0

    def _spent(self) -> bool:
        return (
            self._late()
            or self._prompt_tokens >= self._budget.prompt_tokens
            or self._completion_tokens >= self._budget.completion_tokens
        )

    def use(self) -> BudgetUse:
        """What has been consumed so far."""
        return BudgetUse(
            calls=self._calls,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self._completion_tokens,
            wall_seconds=self._clock() - self._started,
            sandbox_cpu_seconds=self._sandbox_cpu_seconds,
            exhausted=self._exhausted,
        )
