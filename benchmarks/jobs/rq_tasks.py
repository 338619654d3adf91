"""Functions that bare RQ runs in the comparison; a module of their own because RQ imports them by name."""

from __future__ import annotations

import time
from pathlib import Path


def noop(stamp: str | None = None) -> None:
    """Do nothing, or say when it began."""
    if stamp:
        Path(stamp).write_text(str(time.time()))


def steps(ledger: str, count: int) -> None:
    """Append one line a second, so that a watcher sees whether it lives."""
    for step in range(count):
        with Path(ledger).open("a") as sink:
            sink.write(f"{step}\n")
        time.sleep(1)


def started_at() -> float:
    """When it began."""
    return time.time()
