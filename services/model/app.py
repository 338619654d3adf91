"""The model service: OpenAI's protocol over engines it keeps running, and the artifact registry."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from services.model.routes import aliases, artifacts, engines, openai
from services.model.service import ModelService
from services.model.settings import ModelSettings
from shared.app import create_app as create_service
from shared.middleware import state_of


def create_app(settings: ModelSettings) -> FastAPI:
    """Wire the service; engines start with its lifespan."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    async def database_answers() -> str | None:
        return await service.database.ping()

    async def engines_run() -> str | None:
        return await service.not_ready()

    app = create_service(
        service=ModelSettings.service,
        settings=settings,
        title="Latticework model service",
        description="OpenAI's protocol over local and hosted models; engines, aliases and artifacts.",
        routers=[openai.router, aliases.router, engines.router, artifacts.router],
        lifespan=lifespan,
        readiness={"database": database_answers, "engines": engines_run},
    )
    service = ModelService(settings, app.state.registry)
    app.state.model = service
    app.add_middleware(_ArtifactBodyLimit, limit=settings.model_artifact_bytes)
    return app


class _ArtifactBodyLimit:
    """Files may be larger than what the service takes elsewhere; they are never held in memory."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/artifacts"):
            state_of(scope)["body_limit"] = self.limit
        await self.app(scope, receive, send)
