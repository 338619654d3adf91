"""Run configurations over questions and turn each answer into a record of measurements."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from services.text2sql.evaluation import metrics
from services.text2sql.evaluation.datasets import Item
from services.text2sql.evaluation.environment import Environment
from services.text2sql.pisql.chat import ChatModel
from services.text2sql.pisql.configuration import Configuration, Limits
from services.text2sql.pisql.errors import PiSqlError
from services.text2sql.pisql.objects import (
    Answer,
    PivotProgram,
    Question,
    ResultTable,
    Row,
    Verdict,
)
from services.text2sql.pisql.pipeline import answer as ask
from services.text2sql.pisql.results import canonical_rows
from services.text2sql.pisql.stages.s7_reference import choose
from services.text2sql.runner import QueryError, connect
from services.text2sql.runner import run as run_once

GOLD_LIMITS = Limits(sql_seconds=30.0)


@dataclass(frozen=True, slots=True)
class Record:
    """What one configuration did with one question. Ratios are None where they do not apply.

    `pivot_matches` of `pivot_runs` programs gave gold's rows; `oracle` tells whether any candidate did.
    `tau_*` are time ratios gold / prediction of a match.
    """

    item: str
    database: str
    difficulty: str
    answerable: bool
    verdict: str
    sql: str
    code: str
    ran: bool
    ex_set: bool
    ex_bag: bool
    soft_f1: float
    oracle: bool
    reference_right: bool | None
    pivot_runs: int
    pivot_matches: int
    programs: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    overhead_ms: float
    fastest: bool | None = None
    tau_official: float | None = None
    tau_fair: float | None = None
    tau_gold: float | None = None


class Harness:
    """Asks questions in an environment and scores the answers against gold."""

    def __init__(self, environment: Environment, chat: ChatModel, *, timing_iterations: int = 0) -> None:
        self._environment = environment
        self._chat = chat
        self._iterations = timing_iterations
        self._gold: dict[str, list[tuple[Row, ...]]] = {}

    async def gold_rows(self, item: Item) -> list[tuple[Row, ...]]:
        """Rows of every accepted statement; statements the gate or the engine refuses raise."""
        if item.id not in self._gold:
            rows = []
            with self._environment.open(item.database) as database:
                for sql in item.gold:
                    admitted = database.admit(sql, GOLD_LIMITS.table_rows)
                    result = database.with_connection(
                        lambda connection, admitted=admitted: connection.run(  # type: ignore[misc]
                            admitted, GOLD_LIMITS.sql_seconds, GOLD_LIMITS.table_rows
                        )
                    )
                    rows.append(canonical_rows(result.rows))
            self._gold[item.id] = rows
        return self._gold[item.id]

    async def run(self, item: Item, configuration: Configuration) -> tuple[Record, Answer | None]:
        """Ask one question and score the answer; an inadmissible question scores 0."""
        knowledge = self._environment.knowledge(item.database)
        question = Question(id=item.id, database_id=item.database, text=item.question, evidence=item.evidence)
        started = time.perf_counter()
        try:
            with self._environment.ports(item.database, self._chat) as ports:
                answer = await ask(question, knowledge, configuration, ports)
        except PiSqlError as error:
            return _empty(item, str(error.code)), None
        seconds = time.perf_counter() - started
        gold = await self.gold_rows(item)
        record = score(item, answer, gold, seconds)
        if self._iterations and record.ex_set and answer.sql:
            record = self._timed(record, item, answer.sql, gold, answer)
        return record, answer

    def _timed(
        self, record: Record, item: Item, sql: str, gold: list[tuple[Row, ...]], answer: Answer
    ) -> Record:
        rows = answer.result.rows if answer.result else ()
        matching = next(
            (
                text
                for text, want in zip(item.gold, gold, strict=True)
                if metrics.execution_match_set(rows, want)
            ),
            item.gold[0],
        )
        try:
            official, fair = self.time_pair(item.database, sql, matching)
            baseline, _ = self.time_pair(item.database, matching, matching)
        except (QueryError, PiSqlError):
            return record
        return dataclasses.replace(record, tau_official=official, tau_fair=fair, tau_gold=baseline)

    def time_pair(self, database: str, predicted: str, gold: str) -> tuple[float, float]:
        """(official tau, fair tau) of two statements of one database."""
        target = self._environment.target(database)
        with self._environment.open(database) as opened:
            first, second = (opened.admit(sql, GOLD_LIMITS.table_rows) for sql in (predicted, gold))

        def anew(statement: object) -> Callable[[], float]:
            def once() -> float:
                started = time.perf_counter()
                run_once(statement, target, GOLD_LIMITS.sql_seconds)  # type: ignore[arg-type]
                return time.perf_counter() - started

            return once

        official = metrics.time_official(anew(second), anew(first), self._iterations or 100)
        with connect(target) as connection:

            def kept(statement: object) -> Callable[[], float]:
                return lambda: connection.run(statement, GOLD_LIMITS.sql_seconds).seconds  # type: ignore[arg-type]

            fair = metrics.time_fair(kept(second), kept(first), self._iterations or 100)
        return official, fair


def score(item: Item, answer: Answer, gold: Sequence[Sequence[Row]], seconds: float) -> Record:
    """The record of an answer against the rows of every accepted statement."""
    rows = answer.result.rows if answer.result is not None else None
    refused = answer.verdict is Verdict.REFUSED
    candidates = [c.result.rows for c in answer.candidates if c.result is not None]
    runs = [program for program in answer.programs if program.runnable]
    reference = choose(runs)
    model_ms = answer.timings_ms.get("model", 0.0)
    return Record(
        item=item.id,
        database=item.database,
        difficulty=item.difficulty,
        answerable=item.answerable,
        verdict=answer.verdict.value,
        sql=answer.sql,
        code=answer.code,
        ran=rows is not None,
        ex_set=_any(metrics.execution_match_set, rows, gold),
        ex_bag=_any(metrics.execution_match_bag, rows, gold),
        soft_f1=max((metrics.soft_f1(rows, want) for want in gold), default=0.0) if rows is not None else 0.0,
        oracle=any(_any(metrics.execution_match_set, found, gold) for found in candidates),
        reference_right=_gives_gold(reference.result, gold) if reference else None,
        pivot_runs=len(runs),
        pivot_matches=sum(_program_right(program, gold) for program in runs),
        programs=len(answer.programs),
        calls=answer.budget.calls,
        prompt_tokens=answer.budget.prompt_tokens,
        completion_tokens=answer.budget.completion_tokens,
        seconds=seconds,
        overhead_ms=seconds * 1_000 - model_ms if not refused else seconds * 1_000,
    )


def _any(
    match: Callable[[Sequence[Row], Sequence[Row]], bool],
    rows: Sequence[Row] | None,
    gold: Sequence[Sequence[Row]],
) -> bool:
    return rows is not None and any(match(rows, want) for want in gold)


def _gives_gold(result: ResultTable, gold: Sequence[Sequence[Row]]) -> bool:
    return any(metrics.execution_match_set(result.rows, want) for want in gold)


def _program_right(program: PivotProgram, gold: Sequence[Sequence[Row]]) -> bool:
    return program.result is not None and _gives_gold(program.result, gold)


def _empty(item: Item, code: str) -> Record:
    return Record(
        item=item.id,
        database=item.database,
        difficulty=item.difficulty,
        answerable=item.answerable,
        verdict=Verdict.REFUSED.value,
        sql="",
        code=code,
        ran=False,
        ex_set=False,
        ex_bag=False,
        soft_f1=0.0,
        oracle=False,
        reference_right=None,
        pivot_runs=0,
        pivot_matches=0,
        programs=0,
        calls=0,
        prompt_tokens=0,
        completion_tokens=0,
        seconds=0.0,
        overhead_ms=0.0,
    )


async def evaluate(
    harness: Harness,
    items: Sequence[Item],
    configurations: Mapping[str, Configuration],
    *,
    progress: Callable[[float, str], None] = lambda _share, _message: None,
    should_stop: Callable[[], bool] = lambda: False,
    done: Mapping[str, Mapping[str, Record]] | None = None,
) -> dict[str, dict[str, Record]]:
    """Records by configuration and question; `done` ones are not run again (resuming)."""
    records: dict[str, dict[str, Record]] = {
        name: dict((done or {}).get(name, {})) for name in configurations
    }
    total = len(items) * len(configurations) or 1
    for number, item in enumerate(items):
        for position, (name, configuration) in enumerate(configurations.items()):
            if should_stop():
                return records
            if item.id not in records[name]:
                records[name][item.id] = (await harness.run(item, configuration))[0]
            progress((number * len(configurations) + position + 1) / total, f"{name}: {item.id}")
    return records
