"""The front door: keys, budgets, limits, routing, metering and streaming."""
