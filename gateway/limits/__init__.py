"""Rates and budgets: what may start, what it may cost at most, and what it cost in the end."""

from __future__ import annotations

from gateway.limits.calls import Admission, Usage
from gateway.limits.limiter import Limiter
from gateway.limits.local import LocalLimits

__all__ = ["Admission", "Limiter", "LocalLimits", "Usage"]
