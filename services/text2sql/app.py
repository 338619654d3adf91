"""Wiring of the text2sql service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI
from sqlalchemy.exc import IntegrityError
from starlette.types import ASGIApp, Receive, Scope, Send

from services.text2sql import demo
from services.text2sql.jobs import CATALOGUE, HANDLERS
from services.text2sql.registry import DEMONSTRATION
from services.text2sql.routes import ROUTERS
from services.text2sql.schemas import SemanticsSpec
from services.text2sql.settings import Text2SqlSettings
from services.text2sql.store import EVERYONE, IDEMPOTENCY, DatabaseRow, GrantRow, owned_database
from services.text2sql.wiring import Parts, make_parts
from shared.app import create_app as create_service
from shared.database import migrate, new_id
from shared.idempotency import Idempotency
from shared.jobs import Jobs
from shared.middleware import state_of
from shared.principal import Principal

PACKAGE = "services.text2sql"
HOUSE = Principal(key_id="key_house", tenant="house", scopes=frozenset({"sql"}))
"""Owner of the demonstration database, which every tenant may ask."""
MODEL_SECONDS = 300.0


def create_app(settings: Text2SqlSettings) -> FastAPI:
    """The text2sql service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await migrate(settings.resolved_database_url(), PACKAGE)
        timeout = httpx.Timeout(MODEL_SECONDS, connect=5.0)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client, Jobs(settings) as jobs:
            parts = await asyncio.to_thread(make_parts, settings, client)
            app.state.parts, app.state.jobs = parts, jobs
            jobs.count_failures(app.state.registry)
            app.state.idempotency = Idempotency(parts.database, IDEMPOTENCY)
            app.state.slots = asyncio.Semaphore(settings.text2sql_questions)
            try:
                if settings.text2sql_demo and demo.folder() is not None:
                    await add_demonstration(parts, jobs)
                yield
            finally:
                await parts.close()

    async def database_answers() -> str | None:
        parts: Parts | None = getattr(app.state, "parts", None)
        return await parts.database.ping() if parts else "starting"

    app = create_service(
        service=Text2SqlSettings.service,
        settings=settings,
        title="Latticework text2sql",
        description="Pi-SQL: SQL from questions, checked against independently written Python programs.",
        routers=ROUTERS,
        lifespan=lifespan,
        readiness={"database": database_answers},
    )
    app.add_middleware(_UploadLimit, limit=settings.text2sql_upload_bytes)
    return app


async def add_demonstration(parts: Parts, jobs: Jobs) -> None:
    """Register `flights` once; a queued job loads and reads it."""
    async with parts.database.reading() as session:
        if await owned_database(session, HOUSE.tenant, demo.NAME) is not None:
            return
    row = DatabaseRow(
        id=new_id("database"),
        tenant=HOUSE.tenant,
        name=demo.NAME,
        dialect="sqlite",
        source="demonstration",
        description=demo.description(parts.settings.text2sql_demo_days),
        sealed_url=parts.registry.seal(DEMONSTRATION),
        semantics=SemanticsSpec.model_validate(demo.SEMANTICS).model_dump(mode="json"),
    )
    try:
        async with parts.database.session() as session:
            session.add(row)
            await session.flush()
            session.add(GrantRow(database_id=row.id, tenant=EVERYONE, tables=None))
    except IntegrityError:
        return  # another process of the service was first
    job = await jobs.submit(HOUSE, HANDLERS, CATALOGUE, {"database_id": row.id})
    async with parts.database.session() as session:
        stored = await session.get_one(DatabaseRow, row.id)
        stored.job_id = job.id


class _UploadLimit:
    """Uploads may be larger than other bodies; they go to disk as they come."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == "/v1/sql/databases/upload":
            state_of(scope)["body_limit"] = self.limit
        await self.app(scope, receive, send)
