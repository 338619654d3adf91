"""The corpus of hostile statements: read here, used against the gate and against the engines."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

DIALECTS = ("sqlite", "postgres", "mysql", "duckdb")
_FILE = Path(__file__).with_name("hostile.toml")


@dataclass(frozen=True)
class Hostile:
    """One statement on one dialect, and why it must not pass."""

    sql: str
    dialect: str
    codes: tuple[str, ...]
    reason: str


def hostile(directory: str = "/nowhere", canary: str = "/nowhere/canary") -> list[Hostile]:
    """Every statement on every dialect it names."""
    entries = tomllib.loads(_FILE.read_text())["statement"]
    return [
        Hostile(
            entry["sql"].replace("$DIR", directory).replace("$CANARY", canary),
            dialect,
            tuple(entry["codes"]),
            entry["reason"],
        )
        for entry in entries
        for dialect in entry.get("dialects", DIALECTS)
    ]
