"""S0: admit a question, or say why it cannot be answered before anything is spent on it.

Two checks of answerability can be combined. The lexical one costs nothing: a question of which no
content word occurs in the schema's names, descriptions or stored values is out of domain. The model's
one is a short call that may also name the readings of an ambiguous question.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.text2sql.pisql import parsing, prompts
from services.text2sql.pisql.configuration import Answerability, Configuration, Role, Share
from services.text2sql.pisql.context import StageContext
from services.text2sql.pisql.errors import (
    BadOutputError,
    ErrorCode,
    QuestionInvalidError,
    UnknownDatabaseError,
)
from services.text2sql.pisql.objects import Question, SchemaView, ValueHit
from services.text2sql.pisql.words import content_words, name_words, stem


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a question is not answered, and what may be asked instead."""

    code: ErrorCode
    reason: str
    choices: tuple[str, ...] = ()


def admit(question: Question, schema: SchemaView, configuration: Configuration) -> Question:
    """The question with its text trimmed and the schema's dialect.

    Raises `QuestionInvalidError` for empty or over-long text and `UnknownDatabaseError` when the
    caller may see no table.
    """
    text = question.text.strip()
    longest = configuration.limits.question_characters
    if not text:
        raise QuestionInvalidError("the question is empty; write what you want to know")
    if len(text) > longest or len(question.evidence) > longest:
        raise QuestionInvalidError(f"question and hint may have at most {longest} characters each")
    if not schema.tables:
        raise UnknownDatabaseError("the database has no table you may read")
    return Question(
        id=question.id,
        database_id=question.database_id,
        text=text,
        evidence=question.evidence.strip(),
        dialect=schema.dialect,
        ordered=question.ordered,
        caller=question.caller,
    )


def lexical_refusal(question: Question, schema: SchemaView, hits: tuple[ValueHit, ...]) -> Refusal | None:
    """A refusal when no content word of the question is known to the schema or its values."""
    words = content_words(f"{question.text} {question.evidence}")
    if not words or hits:
        return None
    vocabulary, names = _vocabulary(schema), _squashed_names(schema)
    if any(stem(word) in vocabulary or (len(word) > 3 and stem(word) in names) for word in words):
        return None
    return Refusal(
        ErrorCode.UNANSWERABLE,
        "nothing in the question occurs in the names, descriptions or values of this database",
    )


def _squashed_names(schema: SchemaView) -> str:
    """Names without their separators, so that `country` is found in `sbcustcountry`."""
    names = [table.name for table in schema.tables] + [column.name for _, column in schema.columns()]
    return " ".join("".join(name_words(name)) for name in names)


def _vocabulary(schema: SchemaView) -> set[str]:
    texts = [*schema.notes]
    for metric in schema.metrics:
        texts += [metric.name, metric.definition]
    for table in schema.tables:
        texts += [table.name, table.description, *table.synonyms]
        for column in table.columns:
            texts += [column.name, column.description, *column.synonyms]
            texts += [str(sample) for sample in column.samples]
    return {stem(word) for text in texts for word in name_words(text)}


def _read(text: str) -> dict[str, object]:
    value = parsing.json_value(text)
    if not isinstance(value, dict) or "answerability" not in value:
        raise BadOutputError('answer with one JSON object that has "answerability"')
    return value


async def model_refusal(question: Question, schema: SchemaView, context: StageContext) -> Refusal | None:
    """The model's judgement; None when it calls the question answerable or cannot be asked."""
    profile = context.profile(Role.REFUSER)
    judged = await context.ask(Share.ADMIT, Role.REFUSER, prompts.refuser(question, schema, profile), _read)
    if judged is None:
        return None
    kind = str(judged["answerability"])
    reason = str(judged.get("reason", ""))[:400]
    choices = judged.get("choices")
    listed = tuple(str(choice)[:300] for choice in choices[:3]) if isinstance(choices, list) else ()
    if kind == "ambiguous" and listed:
        return Refusal(ErrorCode.AMBIGUOUS, reason or "the question has several readings", listed)
    if kind == "unanswerable":
        return Refusal(ErrorCode.UNANSWERABLE, reason or "the schema cannot answer the question")
    return None


async def refusal(
    question: Question, schema: SchemaView, hits: tuple[ValueHit, ...], context: StageContext
) -> Refusal | None:
    """The configured checks in order of cost."""
    check = context.configuration.answerability
    if check in (Answerability.LEXICAL, Answerability.BOTH):
        found = lexical_refusal(question, schema, hits)
        if found is not None:
            return found
    if check in (Answerability.MODEL, Answerability.BOTH):
        return await model_refusal(question, schema, context)
    return None
