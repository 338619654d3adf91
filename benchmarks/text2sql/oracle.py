"""`ScriptedOracle`: a model double that knows gold and errs at rates that are set.

Programs are derived from gold SQL by translation, or from one of its wrong readings. An SQL writer that
follows a program follows it, wrong or right, with slips of its own; `direct` reads the question anew.
Wrong readings are shared: with probability `correlation` an error is the question's favourite one, as
models of one family make the same mistakes. Fixers never see gold: a program that failed and a name that
is broken are mended as they were meant; shown another's result, a fixer judges which of the two is right,
and is itself right at a rate. Every draw depends on the seed, the question and the call only, so
configurations see the same model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.text2sql.mutations import broken_form, slow_form, wrong_forms
from services.text2sql.adapters import Database
from services.text2sql.evaluation.datasets import Item
from services.text2sql.evaluation.environment import Environment
from services.text2sql.pisql.chat import ChatReply, ChatRequest
from services.text2sql.pisql.configuration import Role
from services.text2sql.pisql.errors import PiSqlError
from services.text2sql.pisql.objects import Row, SchemaView, Strategy
from services.text2sql.pisql.results import canonical_rows
from services.text2sql.pisql.translation import translate
from services.text2sql.pisql.translation_expressions import UntranslatableError

_HEAD = "def solve(db):\n"
_CRASH = "    missing = [][1]\n"


@dataclass(frozen=True, slots=True)
class Rates:
    """Probabilities of errors.

    `program_error` and `direct_error` are misreadings of the question; with `program_slip` and `sql_slip`
    what is written gives another reading than was meant; `program_crash` and `broken` fail when run.
    `repair` is the chance that a repair call does its task, or judges rightly. `slow` is how many needless
    scans a writer that is not `efficient` adds at most.
    """

    program_error: float = 0.0
    program_slip: float = 0.0
    program_crash: float = 0.0
    sql_slip: float = 0.0
    direct_error: float = 0.0
    broken: float = 0.0
    repair: float = 0.7
    correlation: float = 0.3
    slow: int = 0


@dataclass(frozen=True, slots=True)
class Truth:
    """What the oracle knows of one question."""

    gold: str
    schema: SchemaView
    wrong: tuple[str, ...]


@dataclass(slots=True)
class ScriptedOracle:
    """Answers chat requests from gold; a test double, never a model."""

    truths: Mapping[str, Truth]
    rates: Rates
    seed: int = 0
    calls: int = 0
    _followed: dict[tuple[str, str], str] = field(default_factory=dict)
    _ran: dict[tuple[str, str], str] = field(default_factory=dict)
    _wrote: dict[tuple[str, str, str], str] = field(default_factory=dict)

    async def complete(self, request: ChatRequest) -> ChatReply:
        """The reply to one request, by the role and tags of the request."""
        self.calls += 1
        name = request.tag("question")
        truth = self.truths[name]
        draw = random.Random(f"{self.seed}|{name}|{request.role}|{sorted(request.tags)}|{request.seed}")
        handlers: dict[Role, Callable[[ChatRequest, Truth, random.Random], str]] = {
            Role.PROGRAMMER: self._program,
            Role.PROGRAM_FIXER: self._mended_program,
            Role.SQL_WRITER: self._sql,
            Role.SQL_FIXER: self._mended_sql,
        }
        return ChatReply(handlers[request.role](request, truth, draw))

    def _reading(self, truth: Truth, wrong: bool, draw: random.Random) -> str:
        if not wrong or not truth.wrong:
            return truth.gold
        if draw.random() < self.rates.correlation:
            return truth.wrong[0]
        return draw.choice(truth.wrong)

    def _program(self, request: ChatRequest, truth: Truth, draw: random.Random) -> str:
        question, style = request.tag("question"), request.tag("style")
        name = f"{style}-{int(request.tag('sample')) + 1}"
        meant = self._reading(truth, draw.random() < self.rates.program_error, draw)
        self._followed[question, name] = self._ran[question, name] = meant
        if draw.random() < self.rates.program_slip:
            self._ran[question, name] = self._reading(truth, True, draw)
        source = _translated(self._ran[question, name], truth, style == "comment")
        if draw.random() < self.rates.program_crash:
            source = source.replace(_HEAD, _HEAD + _CRASH, 1)
        return f"```python\n{source}```"

    def _mended_program(self, request: ChatRequest, truth: Truth, draw: random.Random) -> str:
        """What failed is mended as it was meant; told of other rows, the writer judges which are right."""
        shown = request.messages[-1].content.split("```python\n", 1)[1].split("```", 1)[0]
        able = draw.random() < self.rates.repair
        if request.tag("kind") != "doubt":
            return f"```python\n{shown.replace(_CRASH, '') if able else shown}```"
        question, program = request.tag("question"), request.tag("program")
        told = self._wrote[question, request.tag("evidence_strategy"), request.tag("evidence_program")]
        if able is (told == truth.gold):
            self._followed[question, program] = self._ran[question, program] = told
            shown = _translated(told, truth, True)
        return f"```python\n{shown}```"

    def _sql(self, request: ChatRequest, truth: Truth, draw: random.Random) -> str:
        strategy = request.tag("strategy")
        if strategy == Strategy.DIRECT:
            sql = self._reading(truth, draw.random() < self.rates.direct_error, draw)
        else:
            sql = self._followed[request.tag("question"), request.tag("program")]
        if draw.random() < self.rates.sql_slip:
            sql = self._reading(truth, True, draw)
        self._wrote[request.tag("question"), strategy, request.tag("program")] = sql
        if draw.random() < self.rates.broken:
            sql = broken_form(sql, truth.schema)
        elif self.rates.slow and strategy != Strategy.EFFICIENT:
            sql = slow_form(sql, truth.schema, draw.randint(0, self.rates.slow))
        return f"```sql\n{sql}\n```"

    def _mended_sql(self, request: ChatRequest, truth: Truth, draw: random.Random) -> str:
        """An error fixer mends the name; a mismatch fixer writes what the plan's rows are of."""
        question, strategy, program = (request.tag(name) for name in ("question", "strategy", "program"))
        intended = self._wrote[question, strategy, program]
        if request.tag("kind") == "mismatch":
            intended = self._ran[question, request.tag("reference")]
        if draw.random() < self.rates.repair:
            return f"step 1\n```sql\n{intended}\n```"
        shown = request.messages[-1].content.split("```sql\n", 1)[1].split("\n```", 1)[0]
        return f"step 1\n```sql\n{shown}\n```"


def _translated(sql: str, truth: Truth, comments: bool) -> str:
    """A program of the statement; of gold when only that can be translated."""
    try:
        return translate(sql, truth.schema, comments=comments)
    except UntranslatableError:
        return translate(truth.gold, truth.schema, comments=comments)


def truth_of(gold: str, schema: SchemaView, differs: Callable[[str], bool], seed: int = 0) -> Truth | None:
    """What the oracle must know of a question; None when no program can be derived from its gold."""
    try:
        translate(gold, schema)
    except UntranslatableError:
        return None
    wrong = [
        option
        for option in wrong_forms(gold, schema, differs, most=6, seed=seed)
        if _translatable(option, schema)
    ]
    return Truth(gold, schema, tuple(wrong))


def _translatable(sql: str, schema: SchemaView) -> bool:
    try:
        translate(sql, schema)
    except UntranslatableError:
        return False
    return True


def truths_of(environment: Environment, items: Sequence[Item], seed: int = 0) -> dict[str, Truth]:
    """What the oracle must know of every question from whose gold a program can be derived.

    A wrong reading runs and gives other rows than gold, on the database as it is.
    """
    found: dict[str, Truth] = {}
    for item in items:
        with environment.open(item.database) as database:

            def rows(sql: str, database: Database = database) -> frozenset[Row]:
                admitted = database.admit(sql, 10_000)
                result = database.with_connection(lambda connection: connection.run(admitted, 5.0))
                return frozenset(canonical_rows(result.rows))

            gold = rows(item.gold[0])

            def differs(
                sql: str,
                gold: frozenset[Row] = gold,
                rows: Callable[[str], frozenset[Row]] = rows,
            ) -> bool:
                try:
                    return rows(sql) != gold
                except PiSqlError:
                    return False

            truth = truth_of(item.gold[0], environment.knowledge(item.database).schema, differs, seed)
        if truth is not None:
            found[item.id] = truth
    return found
