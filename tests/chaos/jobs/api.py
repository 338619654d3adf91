"""The API process of the fault tests: `python -m tests.chaos.jobs.api`, settings from the environment."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from shared.app import create_app, main
from shared.jobs import Jobs, JobSettings, all_jobs_router, jobs_router
from tests.chaos.jobs.kinds import HANDLERS

PREFIX = "/v1/chaos/jobs"
AUDIENCE = "chaos"


def make_app(settings: JobSettings) -> FastAPI:
    """A service that queues the kinds of the fault tests."""
    jobs = Jobs(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with jobs:
            app.state.jobs = jobs
            yield

    return create_app(
        service=AUDIENCE,
        settings=settings,
        title="Fault tests",
        routers=[jobs_router(HANDLERS, prefix=PREFIX, scope="sql"), all_jobs_router()],
        lifespan=lifespan,
        readiness={"jobs": jobs.ready},
    )


if __name__ == "__main__":
    main(make_app, JobSettings)
