"""How long to wait before the next attempt."""

from __future__ import annotations

import random


def backoff_seconds(failures: int, base: float, limit: float) -> float:
    """Exponential with half of it random: `base * 2^(failures - 1)` at most `limit`, times 0.5 to 1.

    The random half keeps jobs that failed together from coming back together.
    """
    full = min(limit, base * 2.0 ** min(failures - 1, 60))
    return full * random.uniform(0.5, 1.0)
