"""The value objects that travel between the stages of Pi-SQL (section 2 of the paper's specification).

They are frozen: a stage never changes what it was given. They know nothing of how they are obtained
(databases, models, sandboxes) and hold only plain values, so that a trace of them is plain JSON.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

Cell: TypeAlias = int | float | str | None
Row: TypeAlias = tuple[Cell, ...]


class ProgramStyle(StrEnum):
    """How a pivot program carries its guidance: in its blocks, or in the comments that lead them."""

    CODE = "code"
    COMMENT = "comment"


class ProgramStatus(StrEnum):
    """Outcome of one program run (S6). `DRY` marks a program that guides without being executed."""

    PENDING = "pending"
    OK = "ok"
    EMPTY = "empty"
    ERROR = "error"
    TIMEOUT = "timeout"
    MEMORY = "memory"
    TOO_BIG = "too_big"
    CONTRACT = "contract"
    DENIED = "denied"
    NONDETERMINISTIC = "nondeterministic"
    DRY = "dry"


class Strategy(StrEnum):
    """What an SQL writer sees (S8)."""

    FOLLOW_CODE = "follow_code"
    FOLLOW_COMMENTS = "follow_comments"
    EFFICIENT = "efficient"
    DIRECT = "direct"


class Match(StrEnum):
    """Verdict of a candidate's rows against the reference's (S9)."""

    MATCH = "match"
    SHAPE = "shape"
    ROWS = "rows"
    ORDER = "order"
    VALUES = "values"
    ERROR = "error"
    UNCHECKED = "unchecked"


class Verdict(StrEnum):
    """How far an answer can be trusted (S12)."""

    VERIFIED = "verified"
    MAJORITY = "majority"
    UNVERIFIED = "unverified"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Question:
    """A question as admitted by S0."""

    id: str
    database_id: str
    text: str
    evidence: str = ""
    dialect: str = "sqlite"
    ordered: bool | None = None
    caller: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column with its profile. `samples` are most frequent values first; none when sensitive."""

    name: str
    type: str
    description: str = ""
    samples: tuple[Cell, ...] = ()
    null_share: float = 0.0
    distinct_count: int = 0
    minimum: Cell = None
    maximum: Cell = None
    sensitive: bool = False
    synonyms: tuple[str, ...] = ()

    @property
    def is_text(self) -> bool:
        """Whether values of the column are text (by declared type)."""
        declared = self.type.upper()
        return any(word in declared for word in ("CHAR", "TEXT", "CLOB", "STRING", "ENUM"))

    @property
    def is_number(self) -> bool:
        """Whether values of the column are numbers (by declared type)."""
        declared = self.type.upper()
        words = ("INT", "REAL", "FLOA", "DOUB", "NUM", "DEC", "SERIAL")
        return any(word in declared for word in words)


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its columns in database order. `sample_rows` follow the column order."""

    name: str
    columns: tuple[Column, ...]
    primary_key: tuple[str, ...] = ()
    description: str = ""
    row_count: int = 0
    synonyms: tuple[str, ...] = ()
    sample_rows: tuple[Row, ...] = ()

    def column(self, name: str) -> Column | None:
        """The column of that name, letter case ignored."""
        wanted = name.lower()
        return next((column for column in self.columns if column.name.lower() == wanted), None)


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """A declared foreign key, or a join that a person approved (`approved`)."""

    table: str
    columns: tuple[str, ...]
    referred_table: str
    referred_columns: tuple[str, ...]
    approved: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """A named business measure and how it is computed, in words or as an SQL expression."""

    name: str
    definition: str


@dataclass(frozen=True, slots=True)
class SchemaView:
    """What a prompt may show of a database: all of it (`pruned` false) or a linked part.

    `reasons` names why each kept table, or `table.column`, was kept.
    """

    database_id: str
    dialect: str
    tables: tuple[Table, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()
    metrics: tuple[Metric, ...] = ()
    notes: tuple[str, ...] = ()
    fingerprint: str = ""
    pruned: bool = False
    reasons: Mapping[str, str] = field(default_factory=dict)

    def table(self, name: str) -> Table | None:
        """The table of that name, letter case ignored."""
        wanted = name.lower()
        return next((table for table in self.tables if table.name.lower() == wanted), None)

    def columns(self) -> Iterator[tuple[Table, Column]]:
        """Every column with its table."""
        for table in self.tables:
            for column in table.columns:
                yield table, column


class MatchKind(StrEnum):
    """How a keyword met a stored value (S2)."""

    EXACT = "exact"
    SUBSTRING = "substring"
    EDIT = "edit"
    EMBEDDING = "embedding"


@dataclass(frozen=True, slots=True)
class ValueHit:
    """A stored value that a phrase of the question seems to mean. `score` is in 0..1."""

    keyword: str
    table: str
    column: str
    value: str
    score: float
    kind: MatchKind


@dataclass(frozen=True, slots=True)
class Example:
    """An approved question/SQL pair. `stale` marks a fingerprint that is no longer the database's."""

    id: str
    database_id: str
    question: str
    sql: str
    fingerprint: str = ""
    stale: bool = False
    score: float = 0.0


@dataclass(frozen=True, slots=True)
class ResultTable:
    """Rows with their column names. `row_count` may exceed `len(rows)` when the cap cut them.

    `digest` is the order-free digest of *all* rows, present when rows were cut.
    `ties` holds every row tied at a LIMIT's cut, when the producer reports them.
    """

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    row_count: int
    ordered: bool = False
    digest: str = ""
    ties: tuple[Row, ...] = ()

    @property
    def truncated(self) -> bool:
        """Whether rows were cut at the cap."""
        return self.row_count > len(self.rows)


@dataclass(frozen=True, slots=True)
class Step:
    """A numbered step of a program: its comment and the lines (1-based, inclusive) it covers."""

    number: int
    text: str
    first_line: int
    last_line: int


@dataclass(frozen=True, slots=True)
class ProgramError:
    """Why a program failed; `step` is the number of the failing step, 0 when unknown."""

    type: str
    message: str
    line: int = 0
    step: int = 0


@dataclass(frozen=True, slots=True)
class PivotProgram:
    """A Python program that answers the question, and what became of it."""

    id: str
    style: ProgramStyle
    source: str
    steps: tuple[Step, ...]
    sample: int
    temperature: float = 0.0
    repairs: int = 0
    status: ProgramStatus = ProgramStatus.PENDING
    result: ResultTable | None = None
    wall_ms: float = 0.0
    cpu_ms: float = 0.0
    peak_mib: float = 0.0
    error: ProgramError | None = None

    @property
    def runnable(self) -> bool:
        """Whether the program produced a result that can vote."""
        return self.status in (ProgramStatus.OK, ProgramStatus.EMPTY) and self.result is not None


@dataclass(frozen=True, slots=True)
class Repair:
    """One repair of a candidate: what was wrong and the SQL that replaced it."""

    reason: Match
    message: str
    before: str
    after: str
    step: int = 0


@dataclass(frozen=True, slots=True)
class SqlCandidate:
    """An SQL statement and what became of it. Times are milliseconds of execution with fetch.

    `also_from` names the programs whose writers gave the same statement in other words.
    """

    id: str
    strategy: Strategy
    raw_sql: str
    sql: str
    program_id: str = ""
    also_from: tuple[str, ...] = ()
    match: Match = Match.UNCHECKED
    result: ResultTable | None = None
    digest: str = ""
    error: str = ""
    error_code: str = ""
    elapsed_ms: float = 0.0
    best_ms: float | None = None
    plan_cost: float | None = None
    node_count: int = 0
    repairs: tuple[Repair, ...] = ()

    @property
    def votes(self) -> int:
        """How many writers gave this statement."""
        return 1 + len(self.also_from)

    @property
    def shown(self) -> bool:
        """Whether a repair has shown the writer the reference's result, so that agreeing says nothing."""
        return any(repair.reason is not Match.ERROR for repair in self.repairs)

    @property
    def executed(self) -> bool:
        """Whether the engine returned a result for it."""
        return self.result is not None


@dataclass(frozen=True, slots=True)
class Reference:
    """The result the SQL must give (S7): the chosen group, its representative and its support."""

    program: PivotProgram
    result: ResultTable
    support: float
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CallRecord:
    """Provenance of one model call; tokens are the model's own count, or an estimate when it gave none."""

    role: str
    model: str
    key: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    ok: bool = True


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """What a question consumed."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    wall_seconds: float = 0.0
    sandbox_cpu_seconds: float = 0.0
    exhausted: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """Something the reader of an answer should know; `code` is one of `errors.ErrorCode` or a short word."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of a question (S12). `confidence` is support of the reference times match ratio, 0..1."""

    question_id: str
    dialect: str
    verdict: Verdict
    sql: str = ""
    result: ResultTable | None = None
    confidence: float = 0.0
    support: float = 0.0
    match_ratio: float = 0.0
    steps: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    explanation: str = ""
    clarifications: tuple[str, ...] = ()
    reason: str = ""
    code: str = ""
    fingerprint: str = ""
    chosen: str = ""
    programs: tuple[PivotProgram, ...] = ()
    candidates: tuple[SqlCandidate, ...] = ()
    calls: tuple[CallRecord, ...] = ()
    budget: BudgetUse = BudgetUse()
    warnings: tuple[Notice, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict)


def to_plain(value: Any) -> Any:
    """A value object (or a nest of them) as JSON-ready dictionaries and lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    return value


def schema_from_plain(data: Mapping[str, Any]) -> SchemaView:
    """The schema view that `to_plain` made `data` of."""
    tables = tuple(
        Table(
            **{
                **table,
                "columns": tuple(
                    Column(
                        **{
                            **column,
                            "samples": tuple(column["samples"]),
                            "synonyms": tuple(column["synonyms"]),
                        }
                    )
                    for column in table["columns"]
                ),
                "primary_key": tuple(table["primary_key"]),
                "synonyms": tuple(table["synonyms"]),
                "sample_rows": tuple(map(tuple, table["sample_rows"])),
            }
        )
        for table in data["tables"]
    )
    keys = tuple(
        ForeignKey(
            **{
                **key,
                "columns": tuple(key["columns"]),
                "referred_columns": tuple(key["referred_columns"]),
            }
        )
        for key in data["foreign_keys"]
    )
    return SchemaView(
        **{
            **data,
            "tables": tables,
            "foreign_keys": keys,
            "metrics": tuple(Metric(**metric) for metric in data["metrics"]),
            "notes": tuple(data["notes"]),
        }
    )
