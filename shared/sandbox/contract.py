"""The words spoken across the sandbox's edge: snapshot in, outcome out.

Knows nothing of how a program is confined. Values are plain: dates and times are ISO text, bytes
are hex text, decimals are numbers (Pi-SQL section 4, canonical cell).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Literal

Dialect = Literal["sqlite", "postgres", "mysql", "duckdb"]
Form = Literal["rows", "frames"]
Status = Literal[
    "ok",
    "empty",
    "error",
    "timeout",
    "memory",
    "too_big",
    "contract",
    "denied",
    "nondeterministic",
]
Cell = bool | int | float | str | None

PROGRAM_BYTES = 64 * 1024
"""The longest program accepted; a pivot program is one to three kilobytes."""


class SandboxUnavailable(RuntimeError):
    """This machine lacks a layer of confinement. Nothing was run and nothing will be."""


@dataclass(frozen=True, eq=False)
class Table:
    """One table of a snapshot: `rows[i][j]` is the value of `columns[j]`.

    `oversized` marks a table too large to carry; asking for it ends the program as `too_big`.
    """

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Any]] = ()
    oversized: bool = False

    def __post_init__(self) -> None:
        if len(set(self.columns)) != len(self.columns):
            raise ValueError(f"column names repeat: {self.columns}")


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Rows a program may read, already authorised, and the date it takes for today.

    Make one per question and hand the same object to every program: it is encoded once.
    """

    tables: Mapping[str, Table] = field(default_factory=dict)
    today: str = "2000-01-01"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. Seconds, bytes, mebibytes as named.

    `memory_mib` None means 256 for a `rows` program and for a `frames` program 2,048 of address
    space, pandas included.
    `runs` = 2 runs the program twice with different random seeds and reports
    `nondeterministic` when the results differ.
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 10.0
    memory_mib: int | None = None
    result_rows: int = 10_000
    result_bytes: int = 1 << 20
    table_rows: int = 200_000
    table_bytes: int = 128 << 20
    runs: int = 1


@dataclass(frozen=True, slots=True)
class ProgramError:
    """Where a program failed: `line` is 1-based in the program, `step` its `# Step n:` mark."""

    type: str
    message: str
    line: int | None = None
    step: int | None = None


@dataclass(frozen=True, slots=True)
class SandboxOutcome:
    """What became of a program (Pi-SQL S6).

    `rows` holds at most `Limits.result_rows` rows; `row_count` and `digest` speak for all of them.
    `cpu_ms` and `peak_mib` are those of the process that ran it.
    """

    status: Status
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Cell, ...], ...] = ()
    row_count: int = 0
    truncated: bool = False
    digest: str | None = None
    ordered: bool = False
    ties: tuple[tuple[Cell, ...], ...] = ()
    error: ProgramError | None = None
    wall_ms: float = 0.0
    cpu_ms: float = 0.0
    peak_mib: float = 0.0
    runner: str = ""


def plain_cell(value: Any) -> Cell:
    """A database value as a program sees it; integers and nulls stay exact.

    Raises TypeError for a value that has no plain form (a list, a driver's own class).
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Decimal):
        # never an integer: 4.00 / 3 is no integer division in any dialect
        return None if value.is_nan() else float(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    raise TypeError(f"a {type(value).__name__} is not a plain value")
