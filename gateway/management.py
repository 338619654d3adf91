"""The rules of keys and budgets: who gets what, and how a change reaches every gateway process."""

from __future__ import annotations

import contextlib
import hashlib
import time
from base64 import urlsafe_b64encode
from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any

import orjson
from cryptography.fernet import Fernet

from gateway import schemas
from gateway.keys import digest, dump_scopes, new_secret, period_at, shown_part
from gateway.ledger import Ledger
from gateway.prices import PriceTable, micro_usd, usd
from gateway.store import BudgetRow, KeyRow, KeyStore, UsageStore, idempotency
from shared.database import Database, new_id, utc_now
from shared.idempotency import Idempotency
from shared.principal import Principal
from shared.problems import Conflict, Unprocessable
from shared.redis_pipe import RedisDown, RedisPipe, RedisRefused
from shared.telemetry import logger

log = logger(__name__)


class Management:
    """Keys and budgets of tenants."""

    def __init__(
        self,
        database: Database,
        pipe: RedisPipe,
        ledger: Ledger,
        usage: UsageStore,
        prices: PriceTable,
        secret: str,
    ) -> None:
        self.store = KeyStore(database)
        self.usage = usage
        self._pipe = pipe
        self._ledger = ledger
        self._prices = prices
        self._once = Idempotency(database, idempotency)
        # A remembered answer holds a secret, so it is kept sealed; the seal needs the suite's secret.
        seal = hashlib.sha256(b"gateway idempotency " + secret.encode()).digest()
        self._seal = Fernet(urlsafe_b64encode(seal))

    # Keys.

    async def create_key(
        self, principal: Principal, body: schemas.KeyCreate, idempotency_key: str | None
    ) -> schemas.KeyCreated:
        """Make a key in the caller's tenant.

        Raises:
            Unprocessable: it would be expired from the start.
            NotFound: the budget does not exist.
        """
        expires = body.expires_at
        if expires is not None and expires.tzinfo is None:
            expires = expires.replace(tzinfo=UTC)
        if expires is not None and expires <= utc_now():
            raise Unprocessable("'expires_at' lies in the past.")

        async def create() -> dict[str, Any]:
            budget_id = body.budget_id
            if budget_id is not None:
                await self.store.budget(principal.tenant, budget_id)
            elif body.budget is not None:
                budget = _budget_row(principal.tenant, body.name, body.budget)
                await self.store.add(budget)
                budget_id = budget.id
            secret = new_secret()
            row = new_key_row(
                principal.tenant,
                body.name,
                secret,
                body.scopes,
                tenant_class=body.tenant_class,
                requests_per_minute=body.requests_per_minute,
                tokens_per_minute=body.tokens_per_minute,
                budget_id=budget_id,
                expires_at=expires,
            )
            await self.store.add(row)
            await self._publish([(row.id, row.version)])
            return self._sealed(row, secret)

        request = {"route": "keys", "body": body.model_dump(mode="json")}
        return self._opened(await self._once.once(principal, idempotency_key, request, create))

    async def rotate_key(
        self, principal: Principal, key_id: str, overlap: int, idempotency_key: str | None
    ) -> schemas.KeyCreated:
        """A new secret; the old one works for `overlap` more seconds.

        Raises:
            NotFound: there is no such key.
            Conflict: it is revoked.
        """

        async def create() -> dict[str, Any]:
            known = await self.store.row(principal.tenant, key_id)
            if known.revoked_at is not None:
                raise Conflict("The key is revoked; make a new one.", code="key_revoked")
            secret = new_secret()
            row = await self.store.change(
                principal.tenant,
                key_id,
                hash=digest(secret),
                shown=shown_part(secret),
                previous_hash=known.hash if overlap else None,
                previous_until=utc_now() + timedelta(seconds=overlap) if overlap else None,
            )
            await self._publish([(row.id, row.version)])
            return self._sealed(row, secret)

        request = {"route": "rotate", "key": key_id, "overlap": overlap}
        return self._opened(await self._once.once(principal, idempotency_key, request, create))

    async def revoke_key(self, principal: Principal, key_id: str) -> schemas.Key:
        """Revoke; again is harmless. NotFound: there is no such key."""
        row = await self.store.row(principal.tenant, key_id)
        if row.revoked_at is None:
            row = await self.store.change(principal.tenant, key_id, revoked_at=utc_now())
        await self._publish([(row.id, row.version)])
        return self.show_key(row)

    async def _publish(self, versions: list[tuple[str, int]]) -> None:
        """Tell Redis the newest versions; while it is away nobody is served by old ones anyway."""
        if not versions:
            return
        flat = [part for version in versions for part in version]
        with contextlib.suppress(RedisDown, RedisRefused):
            await self._pipe.run("publish", 0, *flat)

    async def publish_recent(self) -> None:
        """After Redis was away: versions of everything changed lately, in case it missed them."""
        await self._publish(await self.store.versions_since(utc_now() - timedelta(days=1)))

    def _sealed(self, row: KeyRow, secret: str) -> dict[str, Any]:
        created = schemas.KeyCreated(**self.show_key(row).model_dump(), key=secret)
        return {"sealed": self._seal.encrypt(created.model_dump_json().encode()).decode()}

    def _opened(self, answer: dict[str, Any]) -> schemas.KeyCreated:
        return schemas.KeyCreated.model_validate_json(self._seal.decrypt(answer["sealed"].encode()))

    @staticmethod
    def show_key(row: KeyRow) -> schemas.Key:
        """A key as it is shown in lists."""
        return schemas.Key(
            id=row.id,
            name=row.name,
            tenant=row.tenant,
            tenant_class=row.tenant_class,
            scopes=orjson.loads(row.scopes),
            shown=row.shown,
            requests_per_minute=row.requests_per_minute,
            tokens_per_minute=row.tokens_per_minute,
            budget_id=row.budget_id,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            created_at=row.created_at,
        )

    # Budgets.

    async def create_budget(
        self, principal: Principal, body: schemas.BudgetCreate, idempotency_key: str | None
    ) -> schemas.Budget:
        """Make a budget in the caller's tenant."""

        async def create() -> dict[str, Any]:
            row = _budget_row(principal.tenant, body.name, body)
            await self.store.add(row)
            return (await self.show_budget(row)).model_dump(mode="json")

        request = {"route": "budgets", "body": body.model_dump(mode="json")}
        answer = await self._once.once(principal, idempotency_key, request, create)
        return schemas.Budget.model_validate(answer)

    async def change_budget(
        self, principal: Principal, budget_id: str, body: schemas.BudgetChange
    ) -> schemas.Budget:
        """Change what was given. NotFound: there is no such budget."""
        values = body.model_dump(exclude_unset=True)
        if values.get("name", "") is None:
            del values["name"]
        for name in ("usd", "tokens"):
            if name in values:
                limit = values.pop(name)
                values[f"limit_{name}"] = micro_usd(limit) if isinstance(limit, Decimal) else limit
        row, keys = await self.store.change_budget(principal.tenant, budget_id, **values)
        await self._publish(keys)
        return await self.show_budget(row)

    async def show_budget(self, row: BudgetRow) -> schemas.Budget:
        """A budget with its running counters, or the ledger's sums where Redis has none."""
        label, _ = period_at(row.period, time.time())
        counters: dict[bytes, int] = {}
        with contextlib.suppress(RedisDown, RedisRefused):
            raw = await self._pipe.call("HGETALL", f"lw:budget:{row.id}:{label}")
            counters = dict(zip(raw[::2], map(int, raw[1::2]), strict=True))
        if b"s" in counters:
            used_usd, used_tokens = counters.get(b"usd", 0), counters.get(b"tok", 0)
        else:
            spent = await self.usage.spent(row.id, label)
            used_usd, used_tokens = spent.usd, spent.tokens
        return schemas.Budget(
            id=row.id,
            name=row.name,
            usd=None if row.limit_usd is None else usd(row.limit_usd),
            tokens=row.limit_tokens,
            period=row.period,
            used_usd=usd(used_usd),
            used_tokens=used_tokens,
            reserved_usd=usd(counters.get(b"rusd", 0)),
            reserved_tokens=counters.get(b"rtok", 0),
            created_at=row.created_at,
        )

    # Usage and prices.

    @staticmethod
    def show_usage(row: dict[str, Any]) -> schemas.Usage:
        """One group of the ledger."""
        return schemas.Usage(cost_usd=usd(row["cost"]), **{k: v for k, v in row.items() if k != "cost"})

    def show_prices(self) -> schemas.Prices:
        """The price table, the default first."""
        entries = [(None, self._prices.default), *sorted(self._prices.prices.items())]
        return schemas.Prices(
            data=[
                schemas.PriceEntry(
                    model=model,
                    prompt=str(price.prompt),
                    completion=str(price.completion),
                    cached_prompt=str(price.prompt if price.cached_prompt is None else price.cached_prompt),
                    request=str(price.request),
                    max_output_tokens=price.max_output_tokens,
                )
                for model, price in entries
            ]
        )


def new_key_row(
    tenant: str, name: str, secret: str, scopes: list[str], *, tenant_class: str = "standard", **columns: Any
) -> KeyRow:
    """A key as it is stored: the hash of its secret, never the secret."""
    now = utc_now()
    return KeyRow(
        id=new_id("key"),
        tenant=tenant,
        tenant_class=tenant_class,
        name=name,
        hash=digest(secret),
        shown=shown_part(secret),
        scopes=dump_scopes(scopes),
        version=1,
        created_at=now,
        updated_at=now,
        **columns,
    )


def _budget_row(tenant: str, name: str, limits: schemas.BudgetLimits) -> BudgetRow:
    return BudgetRow(
        id=new_id("budget"),
        tenant=tenant,
        name=name,
        limit_usd=None if limits.usd is None else micro_usd(limits.usd),
        limit_tokens=limits.tokens,
        period=limits.period,
        created_at=utc_now(),
    )
