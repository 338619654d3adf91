"""Measurements; each folder answers one question. `python -m benchmarks` runs them all."""
