"""Kinds of queued work of text2sql. The functions are imported only by the process that runs them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from shared.jobs import HandlerSpec

POOL = "text2sql"
CATALOGUE = "sql_catalogue"
QUESTION = "sql_question"
EVALUATION = "sql_evaluation"


class CatalogueParameters(BaseModel):
    """Read a database's structure, profile and values."""

    model_config = ConfigDict(extra="forbid")
    database_id: str = Field(max_length=40)


class QuestionParameters(BaseModel):
    """Answer a stored question."""

    model_config = ConfigDict(extra="forbid")
    question_id: str = Field(max_length=40)


class EvaluationParameters(BaseModel):
    """Run an evaluation whose request is an artifact."""

    model_config = ConfigDict(extra="forbid")
    request_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    name: str = Field(max_length=64)
    questions: int = Field(ge=1)
    configurations: list[str]


HANDLERS: dict[str, HandlerSpec] = {
    CATALOGUE: HandlerSpec(
        run="services.text2sql.work:read_database",
        pool=POOL,
        parameters=CatalogueParameters,
        scope="sql",
        timeout_s=1_800,
        max_attempts=1,
        processes_jobs=20,
        description="introspect, profile and index a registered database",
    ),
    QUESTION: HandlerSpec(
        run="services.text2sql.work:answer_question",
        pool=POOL,
        parameters=QuestionParameters,
        scope="sql",
        timeout_s=900,
        max_attempts=2,
        processes_jobs=20,
        description="answer a question in the background",
    ),
    EVALUATION: HandlerSpec(
        run="services.text2sql.work:evaluate_questions",
        pool=POOL,
        parameters=EvaluationParameters,
        scope="sql",
        timeout_s=24 * 3_600,
        memory_limit_bytes=4 << 30,
        description="compare configurations over questions with gold SQL",
    ),
}
