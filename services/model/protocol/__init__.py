"""OpenAI's protocol: what comes in, what goes out, and what stands between it and an engine.

Knows the wire format and JSON; knows neither HTTP servers nor how an engine runs.
"""
