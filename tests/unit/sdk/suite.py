"""The merged description of the suite, and what the client really sends, for tests to compare."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[3]


@lru_cache(maxsize=1)
def generator() -> ModuleType:
    """`sdk/generate.py` as a module."""
    spec = importlib.util.spec_from_file_location("sdk_generate", ROOT / "sdk" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The merged OpenAPI document, from the services' own code."""
    merged: dict[str, Any] = generator().merged_document()
    return merged
