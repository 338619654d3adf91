"""Databases that can be asked in plain words: the questions, the examples, the evaluations."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

from latticework._async._io import sleep
from latticework._async._paging import AsyncPages
from latticework._async._streaming import AsyncStream
from latticework._async.resources._resource import AsyncResource
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


class AsyncSql(AsyncResource):
    """`client.sql`."""

    @property
    def databases(self) -> AsyncDatabases:
        """What can be asked."""
        return AsyncDatabases(self._client)

    @property
    def questions(self) -> AsyncQuestions:
        """What was asked, and asking."""
        return AsyncQuestions(self._client)

    @property
    def examples(self) -> AsyncExamples:
        """Approved pairs of question and SQL."""
        return AsyncExamples(self._client)

    @property
    def evaluations(self) -> AsyncEvaluations:
        """How good the answers are."""
        return AsyncEvaluations(self._client)

    async def ask(self, database: str, question: str, **options: Unpack[QuestionOptions]) -> QuestionView:
        """As `questions.ask`."""
        return await self.questions.ask(database, question, **options)


class AsyncDatabases(AsyncResource):
    """`client.sql.databases`; a database is named by its name or its id."""

    async def register(
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
        return await self._client.fetch(create(DATABASES, body, idempotency_key), DatabaseView)

    async def upload(
        self, name: str, files: Sequence[FileSource | Upload], *, description: str | None = None
    ) -> DatabaseView:
        """Upload one SQLite file as a database, or CSV and Parquet files as its tables.

        Tables are named after the files; for bytes give `Upload(data, name="orders.csv")`.
        """
        uploads = [("files", file if isinstance(file, Upload) else Upload(file)) for file in files]
        form = given({"name": name, "description": description})
        call = Call("POST", f"{DATABASES}/upload", uploads=uploads, form=form)
        return await self._client.fetch(call, DatabaseView)

    def list(self, *, page_size: int | None = None) -> AsyncPages[DatabaseView]:
        """Databases the caller may ask, newest first."""
        return AsyncPages(self._client, get(DATABASES, limit=page_size), DatabaseView)

    async def get(self, database: str) -> DatabaseView:
        """One of them."""
        return await self._client.fetch(get(path_of(DATABASES + "/{}", database)), DatabaseView)

    async def remove(self, database: str) -> None:
        """Forget a database of the caller's tenant; the database itself is not touched."""
        await self._client.send(Call("DELETE", path_of(DATABASES + "/{}", database)))

    async def refresh(self, database: str) -> Job:
        """Read structure and contents again."""
        return await self._client.fetch(post(path_of(DATABASES + "/{}/refresh", database)), Job)

    async def wait_ready(self, database: str, *, timeout: float | None = None) -> DatabaseView:
        """Wait until a database has been read; its owner's job is not seen by everybody who may ask it.

        Raises:
            JobFailed: it could not be read.
            WaitTimeout: it took too long.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            found = await self.get(database)
            if found.state == "ready":
                return found
            if found.state == "failed":
                raise JobFailed(f"The database {found.name} cannot be read: {found.problem}", found)
            if deadline is not None and time.monotonic() >= deadline:
                raise WaitTimeout(f"The database {found.name} is still {found.state}.", found)
            await sleep(POLL_SECONDS)

    async def schema(self, database: str) -> SchemaAnswer:
        """Tables, columns, profiles and joins, as far as the caller's grants reach."""
        return await self._client.fetch(get(path_of(DATABASES + "/{}/schema", database)), SchemaAnswer)

    async def semantics(self, database: str) -> SemanticsSpec:
        """What people say about it."""
        return await self._client.fetch(get(path_of(DATABASES + "/{}/semantics", database)), SemanticsSpec)

    async def describe(self, database: str, semantics: Semantics) -> DatabaseView:
        """Replace what people say about it."""
        call = Call("PUT", path_of(DATABASES + "/{}/semantics", database), body=semantics)
        return await self._client.fetch(call, DatabaseView)

    async def grants(self, database: str) -> Grants:
        """Who else may ask it."""
        return await self._client.fetch(get(path_of(DATABASES + "/{}/grants", database)), Grants)

    async def grant(self, database: str, tenant: str, *, tables: Sequence[str] | None = None) -> Grants:
        """Let a tenant (`*`: every one) ask it, or only some of its tables."""
        body = {"tenant": tenant, "tables": None if tables is None else [*tables]}
        call = Call("PUT", path_of(DATABASES + "/{}/grants", database), body=body)
        return await self._client.fetch(call, Grants)

    async def take_back(self, database: str, tenant: str) -> None:
        """Take a grant back."""
        await self._client.send(Call("DELETE", path_of(DATABASES + "/{}/grants/{}", database, tenant)))


class AsyncQuestions(AsyncResource):
    """`client.sql.questions`."""

    async def ask(
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
        return answered(await self._client.fetch(call, QuestionView))

    def stream(
        self, database: str, question: str, **options: Unpack[QuestionOptions]
    ) -> AsyncStream[QuestionEvent]:
        """Ask, and be told what each stage finds; closing the stream ends the work."""
        body = {"database": database, "question": question, **options, "stream": True}
        return AsyncStream(self._client, post(QUESTIONS, body), question_events())

    async def submit(
        self,
        database: str,
        question: str,
        *,
        idempotency_key: str | None = None,
        **options: Unpack[QuestionOptions],
    ) -> Job:
        """Queue a question; the job answers it."""
        body = {"database": database, "question": question, **options, "queue": True}
        return await self._client.fetch(create(QUESTIONS, body, idempotency_key), Job)

    def list(self, *, database: str | None = None, page_size: int | None = None) -> AsyncPages[QuestionView]:
        """The tenant's questions, newest first."""
        call = get(QUESTIONS, database=database, limit=page_size)
        return AsyncPages(self._client, call, QuestionView)

    async def get(self, question_id: str) -> QuestionView:
        """A question with its answer."""
        return await self._client.fetch(get(path_of(QUESTIONS + "/{}", question_id)), QuestionView)

    def rows(self, question_id: str, *, page_size: int | None = None) -> AsyncPages[Row]:
        """All kept rows of the answer; the columns are in `answer.result`."""
        call = get(path_of(QUESTIONS + "/{}/rows", question_id), limit=page_size)
        return AsyncPages(self._client, call, Row)

    async def download(
        self,
        question_id: str,
        target: str | os.PathLike[str],
        *,
        format: Literal["csv", "parquet", "arrow"] = "csv",
    ) -> Path:
        """Write all kept rows to a file."""
        call = get(path_of(QUESTIONS + "/{}/rows", question_id), format=format)
        return await _download(self, call, target)

    async def trace(self, question_id: str) -> dict[str, Any]:
        """Everything needed to replay the question."""
        return await self._client.fetch(get(path_of(QUESTIONS + "/{}/trace", question_id)), dict[str, Any])

    async def judge(
        self, question_id: str, verdict: Verdict, *, sql: str | None = None, comment: str | None = None
    ) -> ExampleView | None:
        """Approve, correct (with `sql`) or reject an answer; what is right becomes an example."""
        body = {"verdict": verdict, "sql": sql, "comment": comment}
        call = post(path_of(QUESTIONS + "/{}/feedback", question_id), body)
        response = await self._client.send(call)
        return None if response.content == b"null" else decode(response, ExampleView)


class AsyncExamples(AsyncResource):
    """`client.sql.examples`."""

    async def add(
        self, examples: Sequence[Example], *, idempotency_key: str | None = None
    ) -> Sequence[ExampleView]:
        """Add pairs; each is checked and run, and one that fails refuses them all."""
        call = create(EXAMPLES, {"examples": [*examples]}, idempotency_key)
        return (await self._client.fetch(call, ExamplesAdded)).data

    def list(self, *, database: str | None = None, page_size: int | None = None) -> AsyncPages[ExampleView]:
        """The tenant's pairs, newest first."""
        call = get(EXAMPLES, database=database, limit=page_size)
        return AsyncPages(self._client, call, ExampleView)

    async def remove(self, example_id: str) -> None:
        """Forget a pair."""
        await self._client.send(Call("DELETE", path_of(EXAMPLES + "/{}", example_id)))


class AsyncEvaluations(AsyncResource):
    """`client.sql.evaluations`."""

    async def start(
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
        return await self._client.fetch(create(EVALUATIONS, body, idempotency_key), Job)

    def list(self, *, page_size: int | None = None) -> AsyncPages[JobSummary]:
        """The tenant's evaluations, newest first."""
        return AsyncPages(self._client, get(EVALUATIONS, limit=page_size), JobSummary)

    async def get(self, evaluation_id: str) -> EvaluationView:
        """An evaluation and, when it is done, its summary."""
        return await self._client.fetch(get(path_of(EVALUATIONS + "/{}", evaluation_id)), EvaluationView)

    async def report(
        self, evaluation_id: str, *, format: Literal["json", "markdown", "png"] = "json"
    ) -> bytes:
        """The whole report."""
        call = get(path_of(EVALUATIONS + "/{}/report", evaluation_id), format=format)
        return (await self._client.send(replace(call, accept=ANYTHING))).content


async def _download(resource: AsyncResource, call: Call, target: str | os.PathLike[str]) -> Path:
    client = resource._client
    async with client.open(replace(call, accept=ANYTHING)) as response:
        with Download(target) as file:
            async for chunk in client.chunks(response, CHUNK_BYTES):
                file.write(chunk)
    return file.target
