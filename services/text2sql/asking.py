"""Asking: from an admitted request to a stored answer. Shared by the routes and the queued job."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import httpx
import orjson

from services.text2sql.adapters import GatedEngine, SandboxedPrograms
from services.text2sql.chart import suggest
from services.text2sql.gateway_chat import GatewayChat, GatewaySimilarity
from services.text2sql.pisql.chat import ChatModel, RecordingChat
from services.text2sql.pisql.configuration import Budget, Configuration, Profile, Share
from services.text2sql.pisql.errors import PiSqlError
from services.text2sql.pisql.objects import Answer, Example, Question, ResultTable, to_plain
from services.text2sql.pisql.pipeline import Knowledge, answer
from services.text2sql.pisql.ports import Event, Ports
from services.text2sql.pisql.trace import RecordedSimilarity, RecordedTimes, make
from services.text2sql.problems import from_pisql
from services.text2sql.registry import Access, Registry
from services.text2sql.schemas import AskQuestion
from services.text2sql.settings import Text2SqlSettings
from services.text2sql.store import QuestionRow, examples_of
from shared.artifacts import ArtifactStore
from shared.database import Database, new_id, utc_now
from shared.principal import Principal, PrincipalSigner
from shared.problems import Problem
from shared.sandbox import Sandbox

SHOWN_ROWS = 100


def silent(_event: Event) -> None:
    """Listens to nothing."""


def configuration(request: AskQuestion, settings: Text2SqlSettings) -> Configuration:
    """The pipeline's configuration of a request."""
    model = request.model or settings.text2sql_model
    aliases = {model, *request.models.values()}
    base = Configuration.for_profile(request.profile)
    budget = _budget(request, base.budget, settings.text2sql_deadline_seconds)
    return base.with_changes(
        model=model,
        models=dict(request.models),
        model_profiles={alias: settings.model_profile(alias, request.model_profile) for alias in aliases},
        form=request.form,
        seed=request.seed,
        explain=request.explain,
        budget=budget,
        today=utc_now().date().isoformat(),
    )


def _budget(request: AskQuestion, base: Budget, deadline: float) -> Budget:
    """The profile's budget with what the request changes, never beyond the service's deadline."""
    asked = request.budget
    wall = base.wall_seconds if request.profile is Profile.THOROUGH else min(base.wall_seconds, deadline)
    if asked is None:
        return dataclasses.replace(base, wall_seconds=wall)
    calls = {**base.calls, **{Share(name): count for name, count in (asked.calls or {}).items()}}
    return Budget(
        calls=calls,
        prompt_tokens=asked.prompt_tokens or base.prompt_tokens,
        completion_tokens=asked.completion_tokens or base.completion_tokens,
        wall_seconds=min(asked.wall_seconds or wall, deadline),
        sandbox_cpu_seconds=asked.sandbox_cpu_seconds or base.sandbox_cpu_seconds,
    )


class Asker:
    """Answers questions and keeps what came of them."""

    def __init__(
        self,
        settings: Text2SqlSettings,
        database: Database,
        registry: Registry,
        artifacts: ArtifactStore,
        sandbox: Sandbox | None,
        signer: PrincipalSigner,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self._settings = settings
        self._database = database
        self._registry = registry
        self._artifacts = artifacts
        self._sandbox = sandbox
        self._signer = signer
        self._client = client

    def chat(self, principal: Principal) -> ChatModel:
        """The model as the principal may use it."""
        return GatewayChat(self._settings.gateway_url, self._signer, principal, client=self._client)

    def _similarity(self, principal: Principal) -> RecordedSimilarity | None:
        """How stored values are compared by meaning, where an embedding model is set."""
        model = self._settings.text2sql_embedding_model
        if not model:
            return None
        gateway = self._settings.gateway_url
        return RecordedSimilarity(
            GatewaySimilarity(gateway, self._signer, principal, model=model, client=self._client)
        )

    async def open_question(
        self, principal: Principal, request: AskQuestion, access: Access, state: str = "running"
    ) -> QuestionRow:
        """Store a question before it is worked on: the audit record exists even if the work dies."""
        row = QuestionRow(
            id=new_id("question"),
            tenant=principal.tenant,
            key_id=principal.key_id,
            database_id=access.row.id,
            request=request.model_dump(mode="json"),
            state=state,
        )
        async with self._database.session() as session:
            session.add(row)
        return row

    async def answer(
        self,
        principal: Principal,
        row: QuestionRow,
        access: Access,
        emit: Callable[[Event], None] = silent,
    ) -> QuestionRow:
        """Answer a stored question; the returned row holds the answer or the problem."""
        request = AskQuestion.model_validate(row.request)
        try:
            answered, trace = await self._run(principal, row, request, access, emit)
        except PiSqlError as error:
            return await self._failed(row, from_pisql(error))
        except Problem as problem:
            return await self._failed(row, problem)
        return await self._finished(row, answered, trace)

    async def _run(
        self,
        principal: Principal,
        row: QuestionRow,
        request: AskQuestion,
        access: Access,
        emit: Callable[[Event], None],
    ) -> tuple[Answer, dict[str, Any]]:
        settings = configuration(request, self._settings)
        question = Question(
            id=row.id,
            database_id=access.row.id,
            text=request.question,
            evidence=request.evidence,
            caller=principal.key_id,
        )
        knowledge = Knowledge(access.schema, access.values, await self._examples(principal, access))
        chat = RecordingChat(self.chat(principal))
        with await self._registry.open(access) as database:
            engine = RecordedTimes(GatedEngine(database))
            programs = SandboxedPrograms(self._sandbox, database) if self._sandbox else None
            similarity = self._similarity(principal)
            ports = Ports(chat=chat, programs=programs, engine=engine, emit=emit, similarity=similarity)
            answered = await answer(question, knowledge, settings, ports)
        cosines = similarity.cosines if similarity is not None else None
        return answered, make(question, settings, chat.recording, engine.times, answered, cosines)

    async def _examples(self, principal: Principal, access: Access) -> list[Example]:
        """Approved pairs of the tenant; never another tenant's."""
        async with self._database.reading() as session:
            rows = await examples_of(session, principal.tenant)
        return [Example(row.id, row.database_id, row.question, row.sql, row.fingerprint) for row in rows]

    async def _failed(self, row: QuestionRow, problem: Problem) -> QuestionRow:
        async with self._database.session() as session:
            stored = await session.get_one(QuestionRow, row.id)
            stored.state = "failed"
            stored.problem = {
                "status": problem.status,
                "code": problem.instance_code or problem.code,
                "title": problem.title,
                "detail": problem.detail,
            }
            stored.finished_at = utc_now()
            return stored

    async def _finished(self, row: QuestionRow, answered: Answer, trace: dict[str, Any]) -> QuestionRow:
        plain = to_plain(answered)
        result = answered.result
        plain["chart"] = suggest(result)
        rows_ref = await self._keep(to_plain(result)) if result is not None else None
        trace_ref = await self._keep(trace)
        _shorten(plain)
        async with self._database.session() as session:
            stored = await session.get_one(QuestionRow, row.id)
            stored.state, stored.verdict = "answered", answered.verdict.value
            stored.answer = plain
            stored.rows_sha256 = rows_ref or ""
            stored.trace_sha256 = trace_ref
            stored.finished_at = utc_now()
            return stored

    async def _keep(self, content: Any) -> str:
        data = orjson.dumps(content)
        return (await asyncio.to_thread(self._artifacts.put_bytes, data)).sha256

    async def stored_rows(self, row: QuestionRow) -> ResultTable:
        """The rows of an answered question."""
        data = orjson.loads(await asyncio.to_thread(self._artifacts.read, row.rows_sha256))
        return ResultTable(
            columns=tuple(data["columns"]),
            rows=tuple(map(tuple, data["rows"])),
            row_count=data["row_count"],
            ordered=data["ordered"],
        )


def _shorten(plain: dict[str, Any]) -> None:
    """Keep the record small: rows live in an artifact, candidates and programs keep counts only."""
    result = plain["result"]
    if result is not None:
        result["rows"] = result["rows"][:SHOWN_ROWS]
    for item in [*plain["programs"], *plain["candidates"]]:
        found = item.pop("result", None)
        item["row_count"] = found["row_count"] if found else None
