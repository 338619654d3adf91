"""Runs every benchmark, one after the other; or the named ones: `python -m benchmarks gateway jobs`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path


def names() -> list[str]:
    """The folders here that can be run."""
    return sorted(path.parent.name for path in Path(__file__).parent.glob("*/__main__.py"))


def main() -> None:
    """Run them; each prints a table and writes JSON beside itself."""
    chosen = sys.argv[1:] or names()
    if unknown := set(chosen) - set(names()):
        sys.exit(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(names())}")
    sys.argv[1:] = []
    for name in chosen:
        print(f"\n# {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}.__main__").main()


if __name__ == "__main__":
    main()
