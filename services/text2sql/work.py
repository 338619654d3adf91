"""What the queued jobs do, each in a process of its own."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson

from services.text2sql.evaluation import ablations, report
from services.text2sql.evaluation.datasets import Dataset, Item
from services.text2sql.evaluation.environment import Environment
from services.text2sql.evaluation.harness import Harness, Record, evaluate
from services.text2sql.pisql.pipeline import Knowledge
from services.text2sql.pisql.ports import Event
from services.text2sql.problems import DatabaseNotFound, QuestionNotFound, SandboxMissing
from services.text2sql.registry import Access
from services.text2sql.schemas import AskQuestion, EvaluateQuestions
from services.text2sql.settings import Text2SqlSettings
from services.text2sql.store import DatabaseRow, find_question, owned_database
from services.text2sql.wiring import Parts, make_parts
from shared.jobs import Interrupted, JobContext
from shared.problems import Problem
from shared.settings import load_settings

_STAGES = ("admitted", "values", "linked", "program", "reference", "candidate", "selected", "answered")
_CHECKPOINT_EVERY = 20


@asynccontextmanager
async def opened(*, with_sandbox: bool = True) -> AsyncIterator[Parts]:
    """The parts of this process, closed afterwards."""
    parts = make_parts(load_settings(Text2SqlSettings), with_sandbox=with_sandbox)
    try:
        yield parts
    finally:
        await parts.close()


async def read_database(job: JobContext) -> dict[str, Any]:
    """Introspect, profile and index one database of the job's tenant."""
    async with opened(with_sandbox=False) as parts:
        async with parts.database.reading() as session:
            row = await owned_database(session, job.tenant, job.parameters["database_id"])
        if row is None:
            raise DatabaseNotFound("The database was removed before it was read.")
        await _set_state(parts, row.id, "profiling", "")
        try:
            schema, values = await asyncio.to_thread(parts.registry.read, row, job.report)
        except Problem as problem:
            await _set_state(parts, row.id, "failed", problem.detail or problem.title)
            raise
        await parts.registry.store_reading(row, schema, values)
        return {
            "database_id": row.id,
            "tables": len(schema.tables),
            "values": len(values),
            "fingerprint": schema.fingerprint,
        }


async def _set_state(parts: Parts, database_id: str, state: str, problem: str) -> None:
    async with parts.database.session() as session:
        stored = await session.get(DatabaseRow, database_id)
        if stored is not None:
            # A database that can be asked stays so while it is read again.
            stored.state = "ready" if stored.catalogue is not None and state == "profiling" else state
            stored.problem = problem


async def answer_question(job: JobContext) -> dict[str, Any]:
    """Answer a stored question; stage events become the job's progress."""

    def emit(event: Event) -> None:
        share = (_STAGES.index(event.stage) + 1) / len(_STAGES) if event.stage in _STAGES else 0.5
        job.report(share, event.stage)

    async with opened() as parts:
        async with parts.database.reading() as session:
            row = await find_question(session, job.tenant, job.parameters["question_id"])
        if row is None:
            raise QuestionNotFound("The question was removed before it was answered.")
        if row.state == "answered":
            return {"question_id": row.id, "verdict": row.verdict}
        access = await parts.registry.access(job.principal, AskQuestion.model_validate(row.request).database)
        row = await parts.asker.answer(job.principal, row, access, emit)
        return {"question_id": row.id, "state": row.state, "verdict": row.verdict}


async def evaluate_questions(job: JobContext) -> dict[str, Any]:
    """Run an evaluation; every 20 records are a checkpoint from which it resumes."""
    request = EvaluateQuestions.model_validate_json(job.artifacts.read(job.parameters["request_sha256"]))
    async with opened() as parts:
        if parts.sandbox is None:
            raise SandboxMissing("An evaluation needs the sandbox.")
        accesses = {
            name: await parts.registry.access(job.principal, name)
            for name in sorted({item.database for item in request.items})
        }
        urls = {name: parts.registry.url(access.row) for name, access in accesses.items()}
        dataset = Dataset(request.name, _items(request), urls)
        known = {name: _knowledge(access) for name, access in accesses.items()}
        with Environment(dataset, parts.sandbox, knowledge=known) as environment:
            records = await _run(job, parts, request, environment)
        return await asyncio.to_thread(_publish, job, request.name, records)


def _items(request: EvaluateQuestions) -> tuple[Item, ...]:
    return tuple(
        Item(
            id=f"q{number}",
            database=item.database,
            question=item.question,
            gold=tuple(item.gold),
            evidence=item.evidence,
            difficulty=item.difficulty,
            answerable=bool(item.gold),
        )
        for number, item in enumerate(request.items)
    )


def _knowledge(access: Access) -> Knowledge:
    return Knowledge(access.schema, access.values)


async def _run(
    job: JobContext, parts: Parts, request: EvaluateQuestions, environment: Environment
) -> dict[str, dict[str, Record]]:
    model = request.model or parts.settings.text2sql_model
    compared = ablations.configurations(
        tuple(request.configurations),
        model=model,
        model_profiles={model: parts.settings.model_profile(model, request.model_profile)},
        seed=request.seed,
    )
    records: dict[str, dict[str, Record]] = {
        name: {key: Record(**record) for key, record in found.items()}
        for name, found in (job.restore() or {}).items()
    }
    harness = Harness(
        environment, parts.asker.chat(job.principal), timing_iterations=request.timing_iterations
    )
    items = environment.dataset.items
    for start in range(0, len(items), _CHECKPOINT_EVERY):
        part = items[start : start + _CHECKPOINT_EVERY]

        def progress(share: float, message: str, start: int = start, size: int = len(part)) -> None:
            job.report((start + share * size) / len(items), message)

        found = await evaluate(
            harness, part, compared, progress=progress, should_stop=job.should_stop, done=records
        )
        for name, new in found.items():
            records.setdefault(name, {}).update(new)
        job.checkpoint(_plain(records))
        if job.should_stop():
            raise Interrupted(job.stop_reason)
    return records


def _plain(records: Mapping[str, Mapping[str, Record]]) -> dict[str, Any]:
    return {
        name: {key: dataclasses.asdict(record) for key, record in found.items()}
        for name, found in records.items()
    }


def _publish(job: JobContext, name: str, records: Mapping[str, Mapping[str, Record]]) -> dict[str, Any]:
    whole = report.build(name, records)
    keep = job.artifacts.put_bytes
    summary = report.build(name, records, details=False)
    return {
        "report": summary,
        "report_sha256": keep(orjson.dumps(whole)).sha256,
        "markdown_sha256": keep(report.markdown(whole).encode()).sha256,
        "plot_sha256": keep(report.plot(whole)).sha256,
    }
