# Generated from latticework/_async/resources/sql.py by sdk/generate.py; do not edit.
"""Databases that can be asked in plain words: the questions, the examples, the evaluations."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

from latticework._base_client import decode
from latticework._calls import Call, create, get, given, path_of, post
from latticework._constants import CHUNK_BYTES
from latticework._exceptions import JobFailed, WaitTimeout
from latticework._files import Download, FileSource, Upload
from latticework._jobs import POLL_SECONDS
from latticework._sql import (
    Cell,
    EvaluationItem,
    Example,
    ModelProfile,
    QuestionEvent,
    QuestionOptions,
    Semantics,
    Verdict,
    answered,
    question_events,
)
from latticework._sync._io import sleep
from latticework._sync._paging import Pages
from latticework._sync._streaming import Stream
from latticework._sync.resources._resource import Resource
from latticework.models import (
    DatabaseView,
    EvaluationView,
    ExamplesAdded,
    ExampleView,
    GrantSpec,
    Job,
    JobSummary,
    QuestionView,
    SchemaAnswer,
    SemanticsSpec,
)

DATABASES = "/v1/sql/databases"
QUESTIONS = "/v1/sql/questions"
EXAMPLES = "/v1/sql/examples"
EVALUATIONS = "/v1/sql/evaluations"
ANYTHING = "*/*"
Grants = list[GrantSpec]
Row = list[Cell]


class Sql(Resource):
    """`client.sql`."""

    @property
    def databases(self) -> Databases:
        """What can be asked."""
        return Databases(self._client)

    @property
    def questions(self) -> Questions:
        """What was asked, and asking."""
        return Questions(self._client)

    @property
    def examples(self) -> Examples:
        """Approved pairs of question and SQL."""
        return Examples(self._client)

    @property
    def evaluations(self) -> Evaluations:
        """How good the answers are."""
        return Evaluations(self._client)

    def ask(self, database: str, question: str, **options: Unpack[QuestionOptions]) -> QuestionView:
        """As `questions.ask`."""
        return self.questions.ask(database, question, **options)


class Databases(Resource):
    """`client.sql.databases`; a database is named by its name or its id."""

    def register(
        self,
        name: str,
        url: str,
        *,
        description: str | None = None,
        semantics: Semantics | None = None,
        idempotency_key: str | None = None,
    ) -> DatabaseView:
        """Register a database by its SQLAlchemy URL; it can be asked once its job, `job_id`, is done."""
        body = {"name": name, "url": url, "description": description, "semantics": semantics}
        return self._client.fetch(create(DATABASES, body, idempotency_key), DatabaseView)

    def upload(
        self, name: str, files: Sequence[FileSource | Upload], *, description: str | None = None
    ) -> DatabaseView:
        """Upload one SQLite file as a database, or CSV and Parquet files as its tables.

        Tables are named after the files; for bytes give `Upload(data, name="orders.csv")`.
        """
        uploads = [("files", file if isinstance(file, Upload) else Upload(file)) for file in files]
        form = given({"name": name, "description": description})
        call = Call("POST", f"{DATABASES}/upload", uploads=uploads, form=form)
        return self._client.fetch(call, DatabaseView)

    def list(self, *, page_size: int | None = None) -> Pages[DatabaseView]:
        """Databases the caller may ask, newest first."""
        return Pages(self._client, get(DATABASES, limit=page_size), DatabaseView)

    def get(self, database: str) -> DatabaseView:
        """One of them."""
        return self._client.fetch(get(path_of(DATABASES + "/{}", database)), DatabaseView)

    def remove(self, database: str) -> None:
        """Forget a database of the caller's tenant; the database itself is not touched."""
        self._client.send(Call("DELETE", path_of(DATABASES + "/{}", database)))

    def refresh(self, database: str) -> Job:
        """Read structure and contents again."""
        return self._client.fetch(post(path_of(DATABASES + "/{}/refresh", database)), Job)

    def wait_ready(self, database: str, *, timeout: float | None = None) -> DatabaseView:
        """Wait until a database has been read; its owner's job is not seen by everybody who may ask it.

        Raises:
            JobFailed: it could not be read.
            WaitTimeout: it took too long.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = self.get(database)
            if found.state == "ready":
                return found
            if found.state == "failed":
                raise JobFailed(f"The database {found.name} cannot be read: {found.problem}", found)
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(f"The database {found.name} is still {found.state}.", found)
            sleep(POLL_SECONDS)

    def schema(self, database: str) -> SchemaAnswer:
        """Tables, columns, profiles and joins, as far as the caller's grants reach."""
        return self._client.fetch(get(path_of(DATABASES + "/{}/schema", database)), SchemaAnswer)

    def semantics(self, database: str) -> SemanticsSpec:
        """What people say about it."""
        return self._client.fetch(get(path_of(DATABASES + "/{}/semantics", database)), SemanticsSpec)

    def describe(self, database: str, semantics: Semantics) -> DatabaseView:
        """Replace what people say about it."""
        call = Call("PUT", path_of(DATABASES + "/{}/semantics", database), body=semantics)
        return self._client.fetch(call, DatabaseView)

    def grants(self, database: str) -> Grants:
        """Who else may ask it."""
        return self._client.fetch(get(path_of(DATABASES + "/{}/grants", database)), Grants)

    def grant(self, database: str, tenant: str, *, tables: Sequence[str] | None = None) -> Grants:
        """Let a tenant (`*`: every one) ask it, or only some of its tables."""
        body = {"tenant": tenant, "tables": None if tables is None else [*tables]}
        call = Call("PUT", path_of(DATABASES + "/{}/grants", database), body=body)
        return self._client.fetch(call, Grants)

    def take_back(self, database: str, tenant: str) -> None:
        """Take a grant back."""
        self._client.send(Call("DELETE", path_of(DATABASES + "/{}/grants/{}", database, tenant)))


class Questions(Resource):
    """`client.sql.questions`."""

    def ask(
        self,
        database: str,
        question: str,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[QuestionOptions],
    ) -> QuestionView:
        """Ask, and wait for the answer.

        Raises:
            StatusError: the question failed.
        """
        call = create(QUESTIONS, {"database": database, "question": question, **options}, idempotency_key)
        return answered(self._client.fetch(call, QuestionView))

    def stream(
        self, database: str, question: str, **options: Unpack[QuestionOptions]
    ) -> Stream[QuestionEvent]:
        """Ask, and be told what each stage finds; closing the stream ends the work."""
        body = {"database": database, "question": question, **options, "stream": True}
        return Stream(self._client, post(QUESTIONS, body), question_events())

    def submit(
        self,
        database: str,
        question: str,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[QuestionOptions],
    ) -> Job:
        """Queue a question; the job answers it."""
        body = {"database": database, "question": question, **options, "queue": True}
        return self._client.fetch(create(QUESTIONS, body, idempotency_key), Job)

    def list(self, *, database: str | None = None, page_size: int | None = None) -> Pages[QuestionView]:
        """The tenant's questions, newest first."""
        call = get(QUESTIONS, database=database, limit=page_size)
        return Pages(self._client, call, QuestionView)

    def get(self, question_id: str) -> QuestionView:
        """A question with its answer."""
        return self._client.fetch(get(path_of(QUESTIONS + "/{}", question_id)), QuestionView)

    def rows(self, question_id: str, *, page_size: int | None = None) -> Pages[Row]:
        """All kept rows of the answer; the columns are in `answer.result`."""
        call = get(path_of(QUESTIONS + "/{}/rows", question_id), limit=page_size)
        return Pages(self._client, call, Row)

    def download(
        self,
        question_id: str,
        target: str | os.PathLike[str],
        *,
        format: Literal["csv", "parquet", "arrow"] = "csv",
    ) -> Path:
        """Write all kept rows to a file."""
        call = get(path_of(QUESTIONS + "/{}/rows", question_id), format=format)
        return _download(self, call, target)

    def trace(self, question_id: str) -> dict[str, Any]:
        """Everything needed to replay the question."""
        return self._client.fetch(get(path_of(QUESTIONS + "/{}/trace", question_id)), dict[str, Any])

    def judge(
        self, question_id: str, verdict: Verdict, *, sql: str | None = None, comment: str | None = None
    ) -> ExampleView | None:
        """Approve, correct (with `sql`) or reject an answer; what is right becomes an example."""
        body = {"verdict": verdict, "sql": sql, "comment": comment}
        call = post(path_of(QUESTIONS + "/{}/feedback", question_id), body)
        response = self._client.send(call)
        return None if response.content == b"null" else decode(response, ExampleView)


class Examples(Resource):
    """`client.sql.examples`."""

    def add(
        self, examples: Sequence[Example], *, idempotency_key: str | None = None
    ) -> Sequence[ExampleView]:
        """Add pairs; each is checked and run, and one that fails refuses them all."""
        call = create(EXAMPLES, {"examples": [*examples]}, idempotency_key)
        return (self._client.fetch(call, ExamplesAdded)).data

    def list(self, *, database: str | None = None, page_size: int | None = None) -> Pages[ExampleView]:
        """The tenant's pairs, newest first."""
        call = get(EXAMPLES, database=database, limit=page_size)
        return Pages(self._client, call, ExampleView)

    def remove(self, example_id: str) -> None:
        """Forget a pair."""
        self._client.send(Call("DELETE", path_of(EXAMPLES + "/{}", example_id)))


class Evaluations(Resource):
    """`client.sql.evaluations`."""

    def start(
        self,
        items: Sequence[EvaluationItem],
        *,
        name: str | None = None,
        configurations: Sequence[str] | None = None,
        model: str | None = None,
        model_profile: ModelProfile | None = None,
        timing_iterations: int | None = None,
        seed: int | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Compare configurations over questions with gold, as a queued job.

        Args:
            configurations: such as `direct`, `fast`, `standard`, `no_repair`.
            timing_iterations: runs per pair for R-VES; without them it is left out.
        """
        body = {
            "items": [*items],
            "name": name,
            "configurations": [*configurations] if configurations is not None else None,
            "model": model,
            "model_profile": model_profile,
            "timing_iterations": timing_iterations,
            "seed": seed,
        }
        return self._client.fetch(create(EVALUATIONS, body, idempotency_key), Job)

    def list(self, *, page_size: int | None = None) -> Pages[JobSummary]:
        """The tenant's evaluations, newest first."""
        return Pages(self._client, get(EVALUATIONS, limit=page_size), JobSummary)

    def get(self, evaluation_id: str) -> EvaluationView:
        """An evaluation and, when it is done, its summary."""
        return self._client.fetch(get(path_of(EVALUATIONS + "/{}", evaluation_id)), EvaluationView)

    def report(self, evaluation_id: str, *, format: Literal["json", "markdown", "png"] = "json") -> bytes:
        """The whole report."""
        call = get(path_of(EVALUATIONS + "/{}/report", evaluation_id), format=format)
        return (self._client.send(replace(call, accept=ANYTHING))).content


def _download(resource: Resource, call: Call, target: str | os.PathLike[str]) -> Path:
    client = resource._client
    with client.open(replace(call, accept=ANYTHING)) as response:
        with Download(target) as file:
            for chunk in client.chunks(response, CHUNK_BYTES):
                file.write(chunk)
    return file.target
