"""Doubles of the pipeline's ports: a scripted model, a scripted sandbox, SQLite without ceremony."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.text2sql.pisql.chat import ChatReply, ChatRequest
from services.text2sql.pisql.configuration import DataForm, Limits, TimingSettings
from services.text2sql.pisql.errors import SqlFailedError, SqlRejectedError, SqlTimeoutError
from services.text2sql.pisql.objects import (
    Cell,
    Column,
    ForeignKey,
    ProgramError,
    ProgramStatus,
    ResultTable,
    SchemaView,
    Table,
)
from services.text2sql.pisql.ports import ProgramRun, SqlRun
from services.text2sql.pisql.results import canonical_rows

SHOP_SCRIPT = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, country TEXT);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER REFERENCES customer (id), amount REAL);
INSERT INTO customer VALUES (1, 'Ada', 'Italy'), (2, 'Bo', 'Norway'), (3, 'Cy', 'Italy');
INSERT INTO orders VALUES (1, 1, 10.0), (2, 1, 5.0), (3, 2, 20.0), (4, 3, NULL);
"""

SHOP = SchemaView(
    database_id="shop",
    dialect="sqlite",
    tables=(
        Table(
            "customer",
            (Column("id", "INTEGER"), Column("name", "TEXT"), Column("country", "TEXT", samples=("Italy",))),
            ("id",),
            row_count=3,
        ),
        Table(
            "orders",
            (Column("id", "INTEGER"), Column("customer_id", "INTEGER"), Column("amount", "REAL")),
            ("id",),
            row_count=4,
        ),
    ),
    foreign_keys=(ForeignKey("orders", ("customer_id",), "customer", ("id",)),),
    fingerprint="f1",
)


def program(step: str = "load", marker: str = "") -> str:
    """A program that passes the static check; `marker` is what the scripted sandbox recognises."""
    return (
        f'def solve(db):\n    # Step 1: {step}\n    rows = db.table("customer")\n'
        f'    # Step 2: project {marker}\n    return {{"columns": ["name"], '
        '"rows": [[r["name"]] for r in rows], "ordered": False}'
    )


def table(*rows: tuple[Cell, ...], ordered: bool = False, width: int = 1) -> ResultTable:
    """A result of some rows."""
    count = len(rows[0]) if rows else width
    return ResultTable(tuple(f"c{i}" for i in range(count)), tuple(rows), len(rows), ordered)


@dataclass
class ScriptedChat:
    """Answers by a function of the request; remembers every request."""

    script: Callable[[ChatRequest], str]
    requests: list[ChatRequest] = field(default_factory=list)

    async def complete(self, request: ChatRequest) -> ChatReply:
        self.requests.append(request)
        return ChatReply(self.script(request))

    def roles(self) -> list[str]:
        """Roles in the order they were asked."""
        return [request.role.value for request in self.requests]


@dataclass
class ScriptedPrograms:
    """A sandbox double: the outcome of the first marker found in the source; runs nothing."""

    outcomes: Mapping[str, ResultTable | ProgramStatus]
    ran: list[str] = field(default_factory=list)

    async def run(
        self, source: str, *, tables: Sequence[str], form: DataForm, today: str, runs: int, limits: Limits
    ) -> ProgramRun:
        self.ran.append(source)
        outcome = next(value for marker, value in self.outcomes.items() if marker in source)
        if isinstance(outcome, ProgramStatus):
            return ProgramRun(outcome, error=ProgramError("Error", "it broke", 3), cpu_ms=1.0)
        status = ProgramStatus.OK if outcome.rows else ProgramStatus.EMPTY
        return ProgramRun(status, outcome, wall_ms=1.0, cpu_ms=1.0)


@dataclass
class ShopEngine:
    """SQLite in memory; times are given, so that selection is a function of the test.

    With `costs` it cannot be timed, and tells what its plans cost instead.
    """

    times: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] | None = None
    ran: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._connection = sqlite3.connect(":memory:")
        self._connection.executescript(SHOP_SCRIPT)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    async def run(self, sql: str, *, limits: Limits) -> SqlRun:
        if not sql.lstrip().upper().startswith(("SELECT", "WITH")):
            raise SqlRejectedError("only SELECT may run")
        self.ran.append(sql)
        try:
            cursor = self._connection.execute(sql)
        except sqlite3.Error as error:
            raise SqlFailedError(str(error)) from error
        rows = canonical_rows(cursor.fetchall())
        names = tuple(item[0] for item in cursor.description)
        return SqlRun(ResultTable(names, rows, len(rows), "ORDER BY" in sql), 0.1)

    async def time(
        self, statements: Sequence[str], *, settings: TimingSettings, limits: Limits
    ) -> Sequence[float | None]:
        if self.costs is not None:
            raise SqlTimeoutError("the server takes no timings")
        return [next((ms for marker, ms in self.times.items() if marker in sql), 1.0) for sql in statements]

    async def cost(self, sql: str) -> float | None:
        return next((cost for marker, cost in (self.costs or {}).items() if marker in sql), None)
