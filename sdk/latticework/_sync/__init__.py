# Generated from latticework/_async/__init__.py by sdk/generate.py; do not edit.
"""The synchronous client. Its synchronous twin in `_sync` is generated from it by `sdk/generate.py`."""
