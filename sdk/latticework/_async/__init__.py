"""The asynchronous client. Its synchronous twin in `_sync` is generated from it by `sdk/generate.py`."""
