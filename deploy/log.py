"""The one log of `make run`: what every process writes, by name, readable.

Knows the JSON lines of our own services; lines of anybody else pass as they are.
"""

from __future__ import annotations

import json
import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

LOG_BYTES = 20 << 20
WARNING_MARKS = ("warning", "error", "critical", "Traceback")


class Log:
    """One readable log: every line to the file, the ones that matter to the terminal."""

    def __init__(self, path: Path, console: Console, *, verbose: bool) -> None:
        self._file = RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=2, encoding="utf-8")
        self._file.setFormatter(logging.Formatter("%(asctime)s %(name)-18s %(message)s"))
        self._console, self._verbose = console, verbose

    def __call__(self, name: str, line: str) -> None:
        level, text = _readable(line)
        self._file.emit(logging.LogRecord(name, logging.INFO, "", 0, text, None, None))
        if self._verbose or name == "suite" or level in WARNING_MARKS:
            style = (
                "red"
                if level in ("error", "critical", "Traceback")
                else "yellow"
                if level == "warning"
                else ""
            )
            self._console.print(Text.assemble((f"{name:<18} ", "cyan"), (text, style)), soft_wrap=True)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _readable(line: str) -> tuple[str, str]:
    """Level and text of a log line; a JSON line becomes `level event name=value ...`."""
    try:
        record: dict[str, Any] = json.loads(line)
        level, event = str(record.pop("level", "info")), str(record.pop("event", ""))
    except (ValueError, AttributeError, TypeError):
        return ("Traceback" if line.startswith("Traceback") else "info"), line
    rest = " ".join(
        f"{name}={value}" for name, value in record.items() if name not in ("timestamp", "service", "logger")
    )
    return level, f"{level:<7} {event} {rest}".rstrip()
