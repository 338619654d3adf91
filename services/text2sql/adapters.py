"""The pipeline's ports over the sandbox, the SQL gate and the SQL runner.

One adapter serves one question of one caller: it knows the caller's allowed tables, keeps one
read-only connection open while candidates are compared, and hands the sandbox rows, never a
connection.
"""

from __future__ import annotations

import asyncio
import datetime
import decimal
import threading
import time
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Any, TypeVar, cast

from services.text2sql.gate import AdmittedStatement, SqlRejected, admit
from services.text2sql.pisql.configuration import DataForm, Limits, TimingSettings
from services.text2sql.pisql.errors import (
    SandboxUnavailableError,
    SqlFailedError,
    SqlRejectedError,
    SqlTimeoutError,
)
from services.text2sql.pisql.objects import ProgramError, ProgramStatus, ResultTable
from services.text2sql.pisql.ports import ProgramRun, SqlRun
from services.text2sql.pisql.program_text import narrowing
from services.text2sql.pisql.results import canonical_cell, canonical_rows, rows_digest
from services.text2sql.runner import (
    DatabaseTarget,
    LoadedTable,
    QueryError,
    ReadOnlyConnection,
    connect,
    load_table,
)
from shared.sandbox import Dialect as SandboxDialect
from shared.sandbox import Limits as SandboxLimits
from shared.sandbox import Sandbox, SandboxUnavailable, Snapshot
from shared.sandbox import Table as SnapshotTable

T = TypeVar("T")


class Database:
    """A database as one caller may use it: its target, its dialect, the tables granted.

    `tables` None means every table. Use as a context manager: leaving it closes the connection.
    """

    def __init__(
        self, target: DatabaseTarget, tables: Collection[str] | None, *, known: Collection[str]
    ) -> None:
        self.target = target
        self.tables = tables
        self.known = known
        self._connection: ReadOnlyConnection | None = None
        self._guard = threading.Lock()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._guard:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def admit(self, sql: str, row_cap: int) -> AdmittedStatement:
        """Pass a statement through the gate; raises `SqlRejectedError`."""
        try:
            return admit(sql, self.target.dialect, self.tables, row_cap)
        except SqlRejected as rejected:
            hint = f" ({rejected.hint})" if rejected.hint else ""
            raise SqlRejectedError(f"{rejected.message}{hint}") from rejected

    def with_connection(self, work: Callable[[ReadOnlyConnection], T]) -> T:
        """Run `work` on the kept connection, one thread at a time, errors translated."""
        try:
            with self._guard:
                if self._connection is None:
                    self._connection = connect(self.target)
                return work(self._connection)
        except QueryError as error:
            if error.code == "sql_timeout":
                raise SqlTimeoutError(error.message) from error
            raise SqlFailedError(error.message) from error


class GatedEngine:
    """Runs statements that pass the gate."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(self, sql: str, *, limits: Limits) -> SqlRun:
        """Run one statement; a result over the row cap is counted and digested up to the table cap."""
        admitted = self._database.admit(sql, limits.result_rows)
        return await asyncio.to_thread(self._run, sql, admitted, limits)

    def _run(self, sql: str, admitted: AdmittedStatement, limits: Limits) -> SqlRun:
        result = self._database.with_connection(
            lambda connection: connection.run(admitted, limits.sql_seconds, limits.result_rows)
        )
        rows = canonical_rows(result.rows)
        count, digest = len(rows), ""
        if result.truncated:
            whole = self._database.admit(sql, limits.table_rows)
            everything = self._database.with_connection(
                lambda connection: connection.run(whole, limits.sql_seconds, limits.table_rows)
            )
            count = len(everything.rows) + int(everything.truncated)
            digest = "" if everything.truncated else rows_digest(canonical_rows(everything.rows))
        table = ResultTable(
            columns=result.columns,
            rows=rows[: limits.result_rows],
            row_count=count,
            ordered=admitted.ordered,
            digest=digest,
        )
        return SqlRun(table, result.seconds * 1_000)

    async def time(
        self, statements: Sequence[str], *, settings: TimingSettings, limits: Limits
    ) -> Sequence[float | None]:
        """Warm-up, interleaved rounds in rotating order, minimum of rounds; laggards leave."""
        admitted = [self._database.admit(sql, limits.result_rows) for sql in statements]
        return await asyncio.to_thread(
            self._database.with_connection,
            lambda connection: _interleaved(connection, admitted, settings, limits),
        )

    async def cost(self, sql: str) -> float | None:
        """The engine's plan cost of a statement."""
        admitted = self._database.admit(sql, 1)
        return await asyncio.to_thread(
            self._database.with_connection, lambda connection: connection.plan_cost(admitted)
        )


def _interleaved(
    connection: ReadOnlyConnection,
    statements: Sequence[AdmittedStatement],
    settings: TimingSettings,
    limits: Limits,
) -> list[float | None]:
    started = time.perf_counter()

    def once(number: int) -> float:
        spent = connection.run(statements[number], limits.sql_seconds, limits.result_rows).seconds
        return spent * 1_000

    running = list(range(len(statements)))
    for number in running:
        once(number)
    best: list[float | None] = [None] * len(statements)
    for turn in range(settings.rounds):
        shift = turn % len(running)
        for number in running[shift:] + running[:shift]:
            spent = once(number)
            known = best[number]
            best[number] = spent if known is None else min(known, spent)
        if turn + 1 >= settings.drop_after_rounds:
            least = min(value for value in best if value is not None)
            running = [
                number
                for number in running
                if (value := best[number]) is not None and value <= settings.drop_factor * least
            ]
        if time.perf_counter() - started > settings.total_seconds:
            break
    return best


class SandboxedPrograms:
    """Runs programs in the sandbox over rows that the SQL runner read for this caller."""

    def __init__(self, sandbox: Sandbox, database: Database) -> None:
        self._sandbox = sandbox
        self._database = database
        self._snapshot = Snapshot({})
        self._loading = asyncio.Lock()

    async def run(
        self, source: str, *, tables: Sequence[str], form: DataForm, today: str, runs: int, limits: Limits
    ) -> ProgramRun:
        """Run one program; only tables of the caller's view are ever read."""
        snapshot = await self._with_tables(tables, today, limits)
        snapshot = await self._narrowed(source, snapshot, limits)
        try:
            outcome = await self._sandbox.run_async(
                source,
                snapshot,
                _sandbox_limits(limits, form, runs),
                dialect=cast(SandboxDialect, self._database.target.dialect),
                form=form.value,
            )
        except SandboxUnavailable as error:
            raise SandboxUnavailableError(str(error)) from error
        return _program_run(outcome)

    async def _with_tables(self, names: Sequence[str], today: str, limits: Limits) -> Snapshot:
        """One snapshot serves every program of the question until a program asks for more tables."""
        known = {name.lower(): name for name in self._database.known}
        async with self._loading:
            wanted = {known[name.lower()] for name in names if name.lower() in known}
            missing = wanted - self._snapshot.tables.keys()
            if missing or self._snapshot.today != today:
                loaded = await asyncio.to_thread(self._load, sorted(missing), limits)
                self._snapshot = Snapshot({**self._snapshot.tables, **loaded}, today)
            return self._snapshot

    async def _narrowed(self, source: str, snapshot: Snapshot, limits: Limits) -> Snapshot:
        """Tables over the caps, as far as the program's own constant conditions bring them under."""
        narrowed = {}
        for name, table in snapshot.tables.items():
            where = narrowing(source, name) if table.oversized else None
            if where is not None:
                narrowed[name] = await asyncio.to_thread(self._load_where, name, where, limits)
        return Snapshot({**snapshot.tables, **narrowed}, snapshot.today) if narrowed else snapshot

    def _load_where(self, name: str, where: Sequence[tuple[Any, ...]], limits: Limits) -> SnapshotTable:
        try:
            loaded = load_table(
                self._database.target,
                name,
                where=[(*condition, None)[:3] for condition in where],
                max_rows=limits.table_rows,
                max_bytes=limits.table_bytes,
            )
        except (ValueError, TypeError, QueryError):
            # A condition without sense is the program's error to hear from the sandbox.
            return SnapshotTable((), (), oversized=True)
        return _snapshot_table(loaded)

    def _load(self, names: Sequence[str], limits: Limits) -> dict[str, SnapshotTable]:
        tables = {}
        for name in names:
            loaded = load_table(
                self._database.target, name, max_rows=limits.table_rows, max_bytes=limits.table_bytes
            )
            tables[name] = _snapshot_table(loaded)
        return tables


def _snapshot_table(loaded: LoadedTable) -> SnapshotTable:
    rows = () if loaded.oversized else [list(map(_plain, row)) for row in loaded.rows]
    return SnapshotTable(tuple(loaded.columns), rows, loaded.oversized)


_PLAIN = (str, int, float, bytes, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)


def _plain(value: Any) -> Any:
    """A value the sandbox can carry: what it knows stays, the rest becomes canonical."""
    return value if value is None or isinstance(value, _PLAIN) else canonical_cell(value)


def _sandbox_limits(limits: Limits, form: DataForm, runs: int) -> SandboxLimits:
    memory = limits.frame_memory_mib if form is DataForm.FRAMES else limits.program_memory_mib
    return SandboxLimits(
        cpu_seconds=limits.program_cpu_seconds,
        wall_seconds=limits.program_wall_seconds,
        memory_mib=memory,
        result_rows=limits.result_rows,
        result_bytes=limits.result_bytes,
        table_rows=limits.table_rows,
        table_bytes=limits.table_bytes,
        runs=max(1, runs),
    )


def _program_run(outcome: Any) -> ProgramRun:
    status = ProgramStatus(outcome.status)
    result = None
    if status in (ProgramStatus.OK, ProgramStatus.EMPTY):
        result = ResultTable(
            columns=tuple(outcome.columns),
            rows=canonical_rows(outcome.rows),
            row_count=outcome.row_count,
            ordered=outcome.ordered,
            digest=(outcome.digest or "") if outcome.row_count > len(outcome.rows) else "",
            ties=canonical_rows(outcome.ties),
        )
    error = None
    if outcome.error is not None:
        error = ProgramError(
            outcome.error.type, outcome.error.message, outcome.error.line or 0, outcome.error.step or 0
        )
    return ProgramRun(
        status=status,
        result=result,
        wall_ms=outcome.wall_ms,
        cpu_ms=outcome.cpu_ms,
        peak_mib=outcome.peak_mib,
        error=error,
    )
