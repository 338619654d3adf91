"""A whole small suite of real processes: one API, several workers, a Redis and a database."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from shared.principal import Principal, PrincipalSigner
from tests.chaos.jobs.api import AUDIENCE, PREFIX
from tests.chaos.jobs.faults import PostgresCut, Process, Redis, SqliteCut, unused_port
from tests.conftest import SECRET

WAIT_SECONDS = 120.0
PRINCIPAL = Principal(key_id="key_chaos", tenant="chaos", scopes=frozenset({"sql"}))


@dataclass
class Stage:
    """The processes, and a client that does not give up."""

    api: Process
    workers: list[Process]
    redis: Redis
    database: SqliteCut | PostgresCut
    client: httpx.AsyncClient
    environment: dict[str, str]

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """One request, repeated while the API is away; POSTs need an Idempotency-Key for that."""
        end = time.monotonic() + WAIT_SECONDS
        kept: dict[str, str] = options.pop("headers", {})
        while True:
            try:
                answer = await self.client.request(method, path, headers=self._headers(kept), **options)
                if answer.status_code < 500:
                    return answer
                reason = f"{answer.status_code} {answer.text[:200]}"
            except httpx.TransportError as error:
                reason = type(error).__name__
            assert time.monotonic() < end, f"the API does not come back: {reason}"
            await asyncio.sleep(0.2)

    @staticmethod
    def _headers(kept: dict[str, str]) -> dict[str, str]:
        token = PrincipalSigner(SECRET).sign(PRINCIPAL, audience=AUDIENCE)
        return {"Authorization": f"Bearer {token}", **kept}

    async def is_up(self) -> bool:
        """Whether the API answers just now."""
        try:
            return (await self.client.get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def submit(self, kind: str, parameters: dict[str, Any], key: str) -> str:
        """Queue a job, once, however often it has to be asked."""
        answer = await self.call(
            "POST",
            PREFIX,
            json={"kind": kind, "parameters": parameters},
            headers={"Idempotency-Key": key},
        )
        assert answer.status_code == 202, answer.text
        job_id: str = answer.json()["id"]
        return job_id

    async def get(self, job_id: str) -> dict[str, Any]:
        """One job."""
        job: dict[str, Any] = (await self.call("GET", f"{PREFIX}/{job_id}")).json()
        return job

    async def unfinished(self) -> int:
        """How many jobs are queued or running (at most 200 are counted)."""
        query = {"state": ["queued", "running"], "limit": 200}
        return len((await self.call("GET", PREFIX, params=query)).json()["data"])


@asynccontextmanager
async def set_stage(
    folder: Path,
    database: SqliteCut | PostgresCut,
    *,
    workers: int,
    concurrency: int = 2,
    lease_seconds: float = 20.0,
    renew_seconds: float = 5.0,
    redis_binary: str | None = None,
) -> AsyncIterator[Stage]:
    """Start everything, and end it whatever happens."""
    redis = Redis(folder / "redis", redis_binary)
    await database.start()
    port = unused_port()
    environment = {
        "LATTICEWORK_HOME": str(folder),
        "LATTICEWORK_PORT": str(port),
        "LATTICEWORK_REDIS_URL": redis.url,
        "LATTICEWORK_JOBS_DATABASE_URL": database.url,
        "LATTICEWORK_PRINCIPAL_SECRET": SECRET,
        "LATTICEWORK_JOBS_MODULES": '["tests.chaos.jobs.kinds"]',
        "LATTICEWORK_JOBS_LEASE_SECONDS": str(lease_seconds),
        "LATTICEWORK_JOBS_RENEW_SECONDS": str(renew_seconds),
    }
    arguments = ["shared.jobs.worker", "--pool", "chaos", "--concurrency", str(concurrency)]
    stage = Stage(
        Process("api", ["tests.chaos.jobs.api"], environment, folder / "api"),
        [Process(f"worker {n}", arguments, environment, folder / f"worker-{n}") for n in range(workers)],
        redis,
        database,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20.0),
        environment,
    )
    try:
        await stage.api.start()
        await stage.call("GET", "/readyz")
        for worker in stage.workers:
            await worker.start()
        yield stage
    finally:
        for process in (*stage.workers, stage.api):
            await process.kill()
        await stage.client.aclose()
        await database.stop()
        redis.stop()
