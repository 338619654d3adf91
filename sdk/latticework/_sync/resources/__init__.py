# Generated from latticework/_async/resources/__init__.py by sdk/generate.py; do not edit.
"""The nouns of the API, one module each."""
