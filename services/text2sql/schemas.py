"""What crosses the wire of `/v1/sql`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints

from services.text2sql.evaluation.ablations import NAMES
from services.text2sql.pisql.configuration import DataForm, Profile, Role
from services.text2sql.settings import ProfileName

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
ShortText = Annotated[str, StringConstraints(max_length=2_000)]
Cell = int | float | str | None


class Strict(BaseModel):
    """Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class MetricSpec(Strict):
    """A named measure and how it is computed."""

    name: Name
    definition: ShortText


class JoinSpec(Strict):
    """A join a person approved."""

    table: str = Field(max_length=128)
    columns: list[str] = Field(min_length=1, max_length=8)
    referred_table: str = Field(max_length=128)
    referred_columns: list[str] = Field(min_length=1, max_length=8)


class SemanticsSpec(Strict):
    """What people say about a database. Keys are `table` or `table.column`."""

    descriptions: dict[str, ShortText] = Field(default_factory=dict, max_length=20_000)
    synonyms: dict[str, list[ShortText]] = Field(default_factory=dict, max_length=20_000)
    sensitive: list[str] = Field(default_factory=list, max_length=20_000, description="columns never sampled")
    metrics: list[MetricSpec] = Field(default_factory=list, max_length=200)
    joins: list[JoinSpec] = Field(default_factory=list, max_length=500)
    notes: list[ShortText] = Field(default_factory=list, max_length=100)


class RegisterDatabase(Strict):
    """Register a database by its SQLAlchemy URL (sqlite, postgresql, mysql, mariadb, duckdb)."""

    name: Name
    url: SecretStr = Field(description="SQLAlchemy URL; encrypted at rest, never shown again")
    description: ShortText = ""
    semantics: SemanticsSpec = Field(default_factory=SemanticsSpec)


class DatabaseView(BaseModel):
    """A database as its users see it; the URL is never part of it."""

    id: str
    name: str
    dialect: str
    source: Literal["url", "upload", "demonstration"]
    description: str
    state: Literal["registered", "profiling", "ready", "failed"]
    problem: str
    fingerprint: str
    owned: bool
    tables: list[str]
    job_id: str
    created_at: datetime
    refreshed_at: datetime | None


class ColumnView(BaseModel):
    """A column with its profile."""

    name: str
    type: str
    description: str
    samples: list[Cell]
    null_share: float
    distinct_count: int
    minimum: Cell
    maximum: Cell
    sensitive: bool
    synonyms: list[str]


class TableView(BaseModel):
    """A table of the catalogue."""

    name: str
    description: str
    row_count: int
    primary_key: list[str]
    synonyms: list[str]
    columns: list[ColumnView]


class ForeignKeyView(BaseModel):
    """A declared or approved join."""

    table: str
    columns: list[str]
    referred_table: str
    referred_columns: list[str]
    approved: bool


class SchemaAnswer(BaseModel):
    """The catalogue as far as the caller's grants reach."""

    database_id: str
    dialect: str
    fingerprint: str
    tables: list[TableView]
    foreign_keys: list[ForeignKeyView]
    metrics: list[MetricSpec]
    notes: list[str]


class GrantSpec(Strict):
    """Let a tenant (`*`: every tenant) ask a database; `tables` null means every table."""

    tenant: Annotated[str, StringConstraints(pattern=r"^(\*|[A-Za-z0-9][A-Za-z0-9_.@-]{0,63})$")]
    tables: list[str] | None = Field(None, max_length=2_000)


class BudgetSpec(Strict):
    """Limits of one question, over those of its profile."""

    calls: dict[Literal["admit", "link", "programs", "sql", "repairs"], int] | None = None
    prompt_tokens: int | None = Field(None, gt=0, le=2_000_000)
    completion_tokens: int | None = Field(None, gt=0, le=200_000)
    wall_seconds: float | None = Field(None, gt=0, le=600)
    sandbox_cpu_seconds: float | None = Field(None, gt=0, le=300)


class AskQuestion(Strict):
    """Ask a database. `stream` answers with server-sent events, `queue` with a job."""

    database: str = Field(max_length=64, description="name or id")
    question: str = Field(max_length=4_000)
    evidence: str = Field("", max_length=4_000, description="a hint about names, codes or definitions")
    profile: Profile = Profile.STANDARD
    model: str | None = Field(None, max_length=128)
    models: dict[Role, str] = Field(default_factory=dict, description="another model alias for single roles")
    model_profile: ProfileName | None = None
    form: DataForm = DataForm.ROWS
    budget: BudgetSpec | None = None
    seed: int = Field(0, ge=0, le=2**31)
    explain: bool = Field(False, description="one more model call for a short explanation in prose")
    stream: bool = False
    queue: bool = False


class ResultView(BaseModel):
    """The first rows of a result; the rest through `/rows`."""

    columns: list[str]
    rows: list[list[Cell]]
    row_count: int
    truncated: bool


class NoticeView(BaseModel):
    """A warning."""

    code: str
    message: str


class BudgetView(BaseModel):
    """What a question consumed."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    wall_seconds: float
    sandbox_cpu_seconds: float
    exhausted: bool


class AnswerView(BaseModel):
    """An answer and how it was reached."""

    verdict: Literal["verified", "majority", "unverified", "refused"]
    sql: str
    dialect: str
    result: ResultView | None
    confidence: float
    support: float
    match_ratio: float
    steps: list[str]
    tables: list[str]
    columns: list[str]
    explanation: str
    clarifications: list[str]
    reason: str
    code: str
    fingerprint: str
    chosen: str
    programs: list[dict[str, Any]]
    candidates: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    budget: BudgetView
    warnings: list[NoticeView]
    timings_ms: dict[str, float]
    chart: dict[str, Any] | None = Field(None, description="a Vega-Lite specification without its data")


class QuestionView(BaseModel):
    """A question and, once there is one, its answer."""

    id: str
    database_id: str
    question: str
    evidence: str
    profile: str
    state: Literal["queued", "running", "answered", "failed"]
    answer: AnswerView | None
    problem: dict[str, Any] | None
    feedback: dict[str, Any] | None
    job_id: str
    created_at: datetime
    finished_at: datetime | None


class RowsPage(BaseModel):
    """A page of result rows."""

    columns: list[str]
    data: list[list[Cell]]
    row_count: int
    next: str | None


class Feedback(Strict):
    """Approve an answer's SQL, correct it, or reject it. Approved and corrected SQL is run again first."""

    verdict: Literal["approve", "correct", "reject"]
    sql: str | None = Field(None, max_length=20_000)
    comment: ShortText = ""


class ExampleSpec(Strict):
    """A question/SQL pair in the database's own dialect."""

    database: str = Field(max_length=64)
    question: Annotated[str, StringConstraints(min_length=1, max_length=2_000, strip_whitespace=True)]
    sql: Annotated[str, StringConstraints(min_length=1, max_length=20_000)]


class AddExamples(Strict):
    """One or many pairs; each is checked, and one that fails refuses them all."""

    examples: list[ExampleSpec] = Field(min_length=1, max_length=500)


class ExampleView(BaseModel):
    """A stored pair; `stale` when the database's structure has changed since."""

    id: str
    database_id: str
    question: str
    sql: str
    source: str
    stale: bool
    created_at: datetime


class ExamplesAdded(BaseModel):
    """The stored pairs."""

    data: list[ExampleView]


class EvaluationItem(Strict):
    """A question with every accepted gold statement; none means it cannot be answered."""

    database: str = Field(max_length=64)
    question: str = Field(max_length=2_000)
    gold: list[str] = Field(default_factory=list, max_length=50)
    evidence: str = Field("", max_length=2_000)
    difficulty: str = Field("", max_length=64)


class EvaluateQuestions(Strict):
    """Compare configurations over questions with gold, as a queued job."""

    name: Name = "evaluation"
    items: list[EvaluationItem] = Field(min_length=1, max_length=5_000)
    configurations: list[Literal[NAMES]] = Field(  # type: ignore[valid-type]
        default_factory=lambda: ["direct", "fast", "standard"], min_length=1, max_length=len(NAMES)
    )
    model: str | None = Field(None, max_length=128)
    model_profile: ProfileName | None = None
    timing_iterations: int = Field(0, ge=0, le=200, description="runs per pair for R-VES; 0 leaves it out")
    seed: int = Field(0, ge=0, le=2**31)


class EvaluationView(BaseModel):
    """An evaluation: its job, and its report when that has ended."""

    id: str
    name: str
    state: str
    progress: float
    message: str | None
    report: dict[str, Any] | None
    created_at: datetime
