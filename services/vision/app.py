"""Wiring of the vision service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from services.vision.engine import Engine
from services.vision.routes import ROUTERS
from services.vision.settings import VisionSettings
from shared.app import create_app as create_service

MODEL_SECONDS = 300.0


def create_app(settings: VisionSettings) -> FastAPI:
    """The vision service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        timeout = httpx.Timeout(MODEL_SECONDS, connect=5.0)
        async with httpx.AsyncClient(timeout=timeout, trust_env=False) as client:
            app.state.http = client
            app.state.engine = engine = Engine(settings, app.state.registry)
            try:
                await engine.start()
                yield
            finally:
                await engine.close()

    async def workers() -> str | None:
        engine: Engine | None = getattr(app.state, "engine", None)
        return await engine.readiness() if engine else "the image workers are starting"

    app = create_service(
        service="vision",
        settings=settings,
        title="Latticework vision",
        description="Scaffold prompting: coordinates on images, the words for them, and the way back.",
        routers=ROUTERS,
        lifespan=lifespan,
        readiness={"workers": workers},
    )
    return app
