"""What the pipeline asks of the world, as protocols: running programs, checking and running SQL, time.

Implementations live outside (the service's adapters, test doubles). All are bound to one database
and one caller before the pipeline sees them, so no stage can reach past what the caller may see.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from services.text2sql.pisql.chat import ChatModel
from services.text2sql.pisql.configuration import DataForm, Limits, TimingSettings
from services.text2sql.pisql.objects import ProgramError, ProgramStatus, ResultTable

Clock: TypeAlias = Callable[[], float]


@dataclass(frozen=True, slots=True)
class ProgramRun:
    """What became of one run of a program. Times are milliseconds, memory MiB."""

    status: ProgramStatus
    result: ResultTable | None = None
    wall_ms: float = 0.0
    cpu_ms: float = 0.0
    peak_mib: float = 0.0
    error: ProgramError | None = None


@dataclass(frozen=True, slots=True)
class SqlRun:
    """The rows of one statement and how long execution with fetch took, in milliseconds."""

    result: ResultTable
    elapsed_ms: float


class ProgramRunner(Protocol):
    """Runs model-written programs, sandboxed, over the bound database.

    Raises `SandboxUnavailableError`, and then has run nothing.
    """

    async def run(
        self, source: str, *, tables: Sequence[str], form: DataForm, today: str, runs: int, limits: Limits
    ) -> ProgramRun:
        """Run `solve(db)` of `source` `runs` times over the named tables; the runs must agree."""
        ...


class SqlEngine(Protocol):
    """Runs statements read-only on the bound database; each passes the safety gate first."""

    async def run(self, sql: str, *, limits: Limits) -> SqlRun:
        """Run one statement; raises `SqlRejectedError`, `SqlTimeoutError` or `SqlFailedError`."""
        ...

    async def time(
        self, statements: Sequence[str], *, settings: TimingSettings, limits: Limits
    ) -> Sequence[float | None]:
        """Least milliseconds of each statement over interleaved rounds; None for one that left.

        Raises as `run` does.
        """
        ...

    async def cost(self, sql: str) -> float | None:
        """The engine's own plan cost, where it has one."""
        ...


class Similarity(Protocol):
    """Compares texts by their embeddings. Raises `ModelUnavailableError` when it cannot."""

    async def compare(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        """The cosine of the embeddings of each pair."""
        ...


@dataclass(frozen=True, slots=True)
class Event:
    """Something a stage wants to be seen while the question is worked on."""

    stage: str
    data: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything outside that one question may use."""

    chat: ChatModel
    programs: ProgramRunner | None
    engine: SqlEngine
    clock: Clock = time.monotonic
    emit: Callable[[Event], None] = lambda _event: None
    similarity: Similarity | None = None
