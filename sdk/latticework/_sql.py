"""Options of questions, and the events of one while it is answered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Required, TypedDict

from httpx2 import ServerSentEvent
from pydantic import TypeAdapter

from latticework._events import Decoded, Decoder, parse
from latticework._exceptions import problem_from
from latticework.models import QuestionView

Profile = Literal["direct", "fast", "standard", "thorough"]
ModelProfile = Literal["small", "full"]
Verdict = Literal["approve", "correct", "reject"]
Cell = int | float | str | None


class QuestionBudget(TypedDict, total=False):
    """Limits of one question; `calls` by stage: admit, link, programs, sql, repairs."""

    calls: Mapping[str, int] | None
    prompt_tokens: int | None
    completion_tokens: int | None
    wall_seconds: float | None
    sandbox_cpu_seconds: float | None


class QuestionOptions(TypedDict, total=False):
    """Options of a question.

    `evidence` is a hint about names, codes or definitions; `models` gives single roles another model
    alias; `explain` spends one more call on a short explanation in prose.
    """

    evidence: str
    profile: Profile
    model: str | None
    models: Mapping[str, str]
    model_profile: ModelProfile | None
    form: Literal["rows", "frames"]
    budget: QuestionBudget | None
    seed: int
    explain: bool


class Metric(TypedDict):
    """A named measure and how it is computed."""

    name: str
    definition: str


class Join(TypedDict):
    """A join a person approved."""

    table: str
    columns: Sequence[str]
    referred_table: str
    referred_columns: Sequence[str]


class Semantics(TypedDict, total=False):
    """What people say about a database; keys are `table` or `table.column`."""

    descriptions: Mapping[str, str]
    synonyms: Mapping[str, Sequence[str]]
    sensitive: Sequence[str]
    metrics: Sequence[Metric]
    joins: Sequence[Join]
    notes: Sequence[str]


class Example(TypedDict):
    """A question and its SQL in the database's own dialect."""

    database: str
    question: str
    sql: str


class EvaluationItem(TypedDict, total=False):
    """A question with every accepted gold statement; none means that it cannot be answered."""

    database: Required[str]
    question: Required[str]
    gold: Sequence[str]
    evidence: str
    difficulty: str


@dataclass(frozen=True, slots=True)
class QuestionEvent:
    """What a stage wants to be seen; the last one, `answer`, has the whole question."""

    stage: str
    data: Mapping[str, Any]
    question: QuestionView | None = None


def question_events() -> Decoder[QuestionEvent]:
    """Decoder of a question's events.

    Raises, while decoding:
        StatusError: the question failed.
    """
    anything = TypeAdapter(dict[str, Any])
    whole = TypeAdapter(QuestionView)

    def decode(event: ServerSentEvent) -> Decoded[QuestionEvent]:
        if event.event not in ("answer", "problem"):
            data = parse(anything, event.data)
            return Decoded(QuestionEvent(event.event, data))
        question = answered(parse(whole, event.data))
        return Decoded(QuestionEvent("answer", json.loads(event.data), question), last=True)

    return decode


def answered(question: QuestionView) -> QuestionView:
    """The question, if it did not fail.

    Raises:
        StatusError: it failed; of the kind its problem calls for.
    """
    if question.state != "failed":
        return question
    problem = {"detail": "The question failed.", "instance": question.id, **(question.problem or {})}
    raise problem_from(problem, status=500, headers={})
