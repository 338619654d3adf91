"""Wiring of the gateway. `python -m gateway` serves it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from redis import asyncio as redis
from redis.exceptions import RedisError
from starlette.types import Scope

from gateway.auth import Authenticator
from gateway.keys import KeyCache
from gateway.ledger import Ledger
from gateway.limits import Limiter, LocalLimits, Usage
from gateway.limits.journal import Journal
from gateway.limits.limiter import describe
from gateway.limits.scripts import CHANGED, SCRIPTS
from gateway.management import Management
from gateway.openapi import MergedOpenApi
from gateway.prices import micro_usd
from gateway.proxy.context import Front
from gateway.proxy.frontdoor import FrontDoor
from gateway.proxy.telemetry import GatewayMetrics
from gateway.proxy.upstreams import Upstreams
from gateway.public import PublicPages
from gateway.routes import router
from gateway.settings import GatewaySettings
from gateway.store import KeyStore, UsageStore
from shared.app import ReadinessCheck
from shared.app import create_app as create_service
from shared.database import Database, migrate, new_id
from shared.jobs import Jobs, all_jobs_router
from shared.middleware import bearer_token, state_of
from shared.principal import Principal
from shared.problems import Problem
from shared.redis_pipe import RedisDown, RedisPipe, RedisRefused
from shared.settings import ConfigurationError
from shared.telemetry import logger

log = logger(__name__)


class Gateway:
    """The parts of one gateway process and their common life."""

    def __init__(self, settings: GatewaySettings) -> None:
        if settings.redis_url is None:
            raise ConfigurationError("LATTICEWORK_REDIS_URL is not set; the gateway counts in Redis.")
        self.settings = settings
        self.redis_url = settings.redis_url.get_secret_value()
        self.prices = settings.price_table()
        self.database = Database(settings.resolved_database_url())
        try:
            self.pipe = RedisPipe(
                self.redis_url,
                SCRIPTS,
                timeout=settings.gateway_redis_timeout_seconds,
                on_connect=self._on_redis_connected,
            )
        except ValueError as error:
            raise ConfigurationError(f"LATTICEWORK_REDIS_URL is wrong: {error}.") from None
        self.store = KeyStore(self.database)
        self.usage = UsageStore(self.database)
        self.jobs = Jobs(settings)
        self.keys = KeyCache(self.store.by_digest, self.store.by_id)
        self.ledger = Ledger(self.pipe, self.usage, settings.gateway_flush_seconds)
        self.upstreams = Upstreams.of(settings)
        self._tasks: set[asyncio.Task[None]] = set()

    def front_door(self, app: FastAPI) -> FrontDoor:
        """Make what needs the management application's signer and registry, and the door around it."""
        settings = self.settings
        self.callers = Authenticator(self.keys, app.state.signer)
        self.limiter = Limiter(
            self.pipe,
            self.callers,
            self.ledger.seed,
            LocalLimits(
                frozenset(settings.gateway_redis_down_keys),
                micro_usd(settings.gateway_redis_down_usd),
            ),
            Journal(settings.home / "gateway"),
            settings.gateway_reservation_seconds,
        )
        self.management = Management(
            self.database,
            self.pipe,
            self.ledger,
            self.usage,
            self.prices,
            settings.principal_secret.get_secret_value(),
        )
        metrics = GatewayMetrics(
            app.state.registry,
            self.upstreams,
            self.limiter.rejections,
            lambda: self.limiter.unconfirmed,
        )
        front = Front(
            settings, self.callers, self.limiter, self.upstreams, self.prices, app.state.signer, metrics
        )
        openapi = MergedOpenApi(self.upstreams, app.state.signer, app.openapi)
        pages = PublicPages(openapi, self.checks, self.upstreams, lambda: bool(app.state.draining))
        app.state.management = self.management
        self.jobs.metrics(app.state.registry)
        return FrontDoor(app, front, pages)

    @property
    def checks(self) -> dict[str, ReadinessCheck]:
        """What has to work for the gateway to work."""
        return {"redis": self._redis_ready, "database": self.database.ping, "jobs": self.jobs.ready}

    async def _redis_ready(self) -> str | None:
        return None if self.pipe.connected else self.pipe.last_error

    async def authenticate(self, scope: Scope) -> Principal:
        """Management calls meet the same checks as all others."""
        caller = await self.callers.get(bearer_token(scope))
        meta = describe(caller.key, "gateway", "")
        admission = await self.limiter.admit(caller, new_id("call"), meta)
        self.limiter.settle(admission, Usage())
        request_id = state_of(scope)["request_id"]
        key = caller.key
        return Principal(key.id, key.tenant, caller.scopes, request_id, key.budget_id)

    @asynccontextmanager
    async def life(self) -> AsyncIterator[None]:
        """Start, and on a clean stop write down everything that was settled."""
        await migrate(self.settings.resolved_database_url(), "gateway")
        await self.pipe.start()
        await self.limiter.start()
        await self.ledger.start()
        listener = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            listener.cancel()
            if self._tasks:  # They may be in the database, which does not take a cancel well.
                await asyncio.wait(self._tasks, timeout=5)
            await self.upstreams.close()
            await self.limiter.close()
            await self.ledger.close()
            await self.pipe.close()
            await self.database.close()

    # Redis.

    def _on_redis_connected(self) -> None:
        self._spawn(self._catch_up())

    async def _catch_up(self) -> None:
        """Redis is (back) there: tell it newest versions, book what waited for it."""
        try:
            await self.management.publish_recent()
            await self.limiter.replay()
        except (RedisDown, RedisRefused):
            pass  # It went away again; the next connection does it.
        except Exception:
            log.exception("catching up with Redis failed")

    async def _listen(self) -> None:
        """Changes of keys made by other processes, so that running streams notice them, too."""
        while True:
            try:
                async with (
                    redis.Redis.from_url(self.redis_url) as client,
                    client.pubsub() as channel,
                ):
                    await channel.subscribe(CHANGED)
                    async for message in channel.listen():
                        if message["type"] == "message":
                            self._spawn(self._refresh(message["data"].decode()))
            except (RedisError, OSError) as error:
                log.warning("changes of keys are not heard", error=str(error))
            await asyncio.sleep(0.5)

    async def _refresh(self, key_id: str) -> None:
        if any(key.id == key_id for key in self.keys.keys):
            self.keys.invalidate(key_id)
            with contextlib.suppress(Problem):
                await self.keys.get_by_id(key_id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def routers() -> list[APIRouter]:
    """Management routes, and every job of the suite under `/v1/jobs`."""
    return [router, all_jobs_router()]


def create_app(settings: GatewaySettings) -> FrontDoor:
    """The gateway as an ASGI application: the front door around the management application.

    Raises:
        ConfigurationError: the settings do not make a working gateway.
    """
    gateway = Gateway(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.jobs = gateway.jobs
        async with gateway.life(), gateway.jobs:
            yield

    app = create_service(
        service="gateway",
        settings=settings,
        title="Latticework gateway",
        routers=routers(),
        lifespan=lifespan,
        readiness=gateway.checks,
        authenticator=gateway.authenticate,
    )
    return gateway.front_door(app)
