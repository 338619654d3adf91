"""Figures of a sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Latency:
    """Median and 99th percentile, in seconds."""

    p50: float
    p99: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """By nearest rank."""
        ordered = sorted(seconds)
        return cls(ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))])

    def milliseconds(self) -> str:
        """`p50 / p99` in ms."""
        return f"{self.p50 * 1000:.1f} / {self.p99 * 1000:.1f}"
