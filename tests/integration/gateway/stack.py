"""The gateway's limits and ledger put together without HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from gateway.auth import Authenticator, Caller
from gateway.keys import KeyCache, digest, dump_scopes, new_secret, shown_part
from gateway.ledger import Ledger
from gateway.limits import Admission, Limiter, LocalLimits
from gateway.limits.journal import Journal
from gateway.limits.limiter import describe
from gateway.limits.scripts import SCRIPTS
from gateway.store import BudgetRow, KeyRow, KeyStore, UsageStore
from shared.database import Database, migrate, new_id, utc_now
from shared.principal import PrincipalSigner
from shared.redis_pipe import RedisPipe
from tests.conftest import SECRET

ALWAYS: dict[str, Any] = {"first": (utc_now() - timedelta(days=2)).date()}


@dataclass
class Stack:
    database: Database
    pipe: RedisPipe
    keys: KeyStore
    usage: UsageStore
    callers: Authenticator
    limiter: Limiter
    ledger: Ledger
    journal: Journal
    local: LocalLimits

    async def new_key(
        self,
        *,
        usd: int | None = None,
        tokens: int | None = None,
        period: str = "total",
        scopes: tuple[str, ...] = ("model",),
        **columns: Any,
    ) -> str:
        """A key in clear, with a budget of its own where a limit is given."""
        budget_id = None
        if usd is not None or tokens is not None:
            budget_id = new_id("budget")
            row = BudgetRow(id=budget_id, tenant="acme", name="b", limit_usd=usd, limit_tokens=tokens)
            row.period, row.created_at = period, utc_now()
            await self.keys.add(row)
        secret = new_secret()
        values: dict[str, Any] = {
            "id": new_id("key"),
            "tenant": "acme",
            "tenant_class": "standard",
            "name": "test",
            "hash": digest(secret),
            "shown": shown_part(secret),
            "scopes": dump_scopes(list(scopes)),
            "budget_id": budget_id,
            "version": 1,
            "created_at": utc_now(),
            "updated_at": utc_now(),
        }
        await self.keys.add(KeyRow(**(values | columns)))
        return secret

    async def caller(self, secret: str) -> Caller:
        return await self.callers.get(secret)

    async def admit(self, caller: Caller, **options: int) -> Admission:
        meta = describe(caller.key, "model", "default")
        return await self.limiter.admit(caller, new_id("call"), meta, **options)

    async def counters(self, caller: Caller) -> dict[str, int]:
        """The budget's counters in Redis: usd, tok, rusd, rtok."""
        import time

        raw = await self.pipe.call("HGETALL", caller.key.budget_key(time.time()))
        return {name.decode(): int(value) for name, value in zip(raw[::2], raw[1::2], strict=True)}

    async def totals(self) -> dict[str, int]:
        """All of acme's usage in the ledger, after a flush."""
        await self.ledger.flush()
        rows = await self.usage.report(
            "acme",
            group_by=[],
            first=ALWAYS["first"],
            last=(utc_now() + timedelta(days=1)).date(),
            filters={},
            offset=0,
            limit=10,
        )
        return rows[0] if rows else {}


@contextlib.asynccontextmanager
async def running(
    redis_url: str,
    database_url: str,
    folder: Path,
    *,
    life: float = 30.0,
    local_keys: frozenset[str] = frozenset(),
    allowance: int = 1_000_000,
) -> AsyncIterator[Stack]:
    await migrate(database_url, "gateway")
    database = Database(database_url)
    keys, usage = KeyStore(database), UsageStore(database)
    pipe = RedisPipe(redis_url, SCRIPTS, timeout=0.5)
    await pipe.start()
    cache = KeyCache(keys.by_digest, keys.by_id)
    callers = Authenticator(cache, PrincipalSigner(SECRET))
    ledger = Ledger(pipe, usage, every=0.05)
    local = LocalLimits(local_keys, allowance)
    journal = Journal(folder)
    limiter = Limiter(pipe, callers, ledger.seed, local, journal, life)
    await limiter.start()
    try:
        yield Stack(database, pipe, keys, usage, callers, limiter, ledger, journal, local)
    finally:
        await limiter.close()
        await ledger.close()
        await pipe.close()
        await database.close()
