"""Is one configuration better than another on the same questions? McNemar and the paired bootstrap."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two configurations on the same questions; differences are second minus first, in points."""

    only_first: int
    only_second: int
    difference: float
    p_value: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether McNemar's exact test rejects equality at 5 %."""
        return self.p_value < 0.05


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact McNemar p-value from the discordant counts (binomial with p = 1/2)."""
    total = only_first + only_second
    if total == 0:
        return 1.0
    least = min(only_first, only_second)
    tail = float(sum(math.comb(total, k) for k in range(least + 1)) / (1 << total))
    return min(1.0, 2 * tail)


def bootstrap(
    first: Sequence[float], second: Sequence[float], *, rounds: int = 2_000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean difference in points, resampling questions."""
    if not first:
        return (0.0, 0.0)
    generator = random.Random(seed)
    differences = [100 * (b - a) for a, b in zip(first, second, strict=True)]
    size = len(differences)
    means = sorted(sum(generator.choices(differences, k=size)) / size for _ in range(rounds))
    return (means[int(0.025 * rounds)], means[int(0.975 * rounds) - 1])


def compare(first: Sequence[bool], second: Sequence[bool], *, seed: int = 0) -> Comparison:
    """Paired comparison of two lists of outcomes in the same question order."""
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    low, high = bootstrap([float(a) for a in first], [float(b) for b in second], seed=seed)
    difference = 100 * (sum(second) - sum(first)) / len(first) if first else 0.0
    return Comparison(only_first, only_second, difference, mcnemar(only_first, only_second), low, high)
