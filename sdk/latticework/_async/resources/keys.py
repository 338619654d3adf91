"""Keys, the budgets they spend from, and what was spent."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Literal

from latticework._async._paging import AsyncPages
from latticework._async.resources._resource import AsyncResource
from latticework._calls import UNSET, Call, Unset, create, get, given, path_of
from latticework._jobs import moment
from latticework.models import Budget, Key, KeyCreated, PriceEntry, Prices, Usage

Money = Decimal | str | int
Period = Literal["total", "day", "month"]
Dimension = Literal["day", "key", "service", "model"]


class AsyncKeys(AsyncResource):
    """`client.keys`, for administrators."""

    async def create(
        self,
        name: str,
        scopes: Sequence[str],
        *,
        expires_at: datetime | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        usd: Money | None = None,
        tokens: int | None = None,
        period: Period | None = None,
        budget_id: str | None = None,
        tenant_class: str | None = None,
        idempotency_key: str | None = None,
    ) -> KeyCreated:
        """Make a key; its secret, `key`, is in this answer and nowhere else.

        Args:
            scopes: rooms it may enter: `model`, `sql`, `vision`, ...; `admin` opens all.
            usd, tokens, period: a hard budget of its own.
            budget_id: a budget it shares with other keys, instead.
        """
        own = given({"usd": _money(usd), "tokens": tokens, "period": period})
        body = {
            "name": name,
            "scopes": list(scopes),
            "expires_at": moment(expires_at),
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "budget": own or None,
            "budget_id": budget_id,
            "tenant_class": tenant_class,
        }
        return await self._client.fetch(create("/v1/keys", body, idempotency_key), KeyCreated)

    def list(self, *, page_size: int | None = None) -> AsyncPages[Key]:
        """Keys of the tenant, newest first, without their secrets."""
        return AsyncPages(self._client, get("/v1/keys", limit=page_size), Key)

    async def get(self, key_id: str) -> Key:
        """A key; anybody may look at their own."""
        return await self._client.fetch(get(path_of("/v1/keys/{}", key_id)), Key)

    async def rotate(
        self, key_id: str, *, overlap_seconds: int | None = None, idempotency_key: str | None = None
    ) -> KeyCreated:
        """Give a key a new secret; the old one ends at once, or after the overlap."""
        body = {"overlap_seconds": overlap_seconds}
        call = create(path_of("/v1/keys/{}/rotate", key_id), body, idempotency_key)
        return await self._client.fetch(call, KeyCreated)

    async def revoke(self, key_id: str) -> Key:
        """End a key, everywhere within a second."""
        return await self._client.fetch(Call("DELETE", path_of("/v1/keys/{}", key_id)), Key)


class AsyncBudgets(AsyncResource):
    """`client.budgets`: hard limits in US dollars and tokens that keys may share."""

    async def create(
        self,
        name: str,
        *,
        usd: Money | None = None,
        tokens: int | None = None,
        period: Period | None = None,
        idempotency_key: str | None = None,
    ) -> Budget:
        """Make a budget."""
        body = {
            "name": name,
            "usd": _money(usd),
            "tokens": tokens,
            "period": period,
        }
        return await self._client.fetch(create("/v1/budgets", body, idempotency_key), Budget)

    def list(self, *, page_size: int | None = None) -> AsyncPages[Budget]:
        """Budgets of the tenant, newest first."""
        return AsyncPages(self._client, get("/v1/budgets", limit=page_size), Budget)

    async def get(self, budget_id: str) -> Budget:
        """A budget and what is used of it; anybody may look at the one they spend from."""
        return await self._client.fetch(get(path_of("/v1/budgets/{}", budget_id)), Budget)

    async def change(
        self,
        budget_id: str,
        *,
        name: str | Unset = UNSET,
        usd: Money | Unset | None = UNSET,
        tokens: int | Unset | None = UNSET,
    ) -> Budget:
        """Change what is given; None takes a limit away. New limits hold for the next call."""
        changes = {"name": name, "usd": usd, "tokens": tokens}
        body = {field: value for field, value in changes.items() if not isinstance(value, Unset)}
        if isinstance(usd, Decimal | int):
            body["usd"] = str(usd)
        call = Call("PATCH", path_of("/v1/budgets/{}", budget_id), body=body, replayable=True)
        return await self._client.fetch(call, Budget)


class AsyncUsageReports(AsyncResource):
    """`client.usage`: what was used, up to about a second ago."""

    async def prices(self) -> list[PriceEntry]:
        """US dollars per million tokens, by model; `None` is what all others cost."""
        return (await self._client.fetch(get("/v1/prices"), Prices)).data

    def list(
        self,
        *,
        group_by: Sequence[Dimension] | None = None,
        first: date | None = None,
        last: date | None = None,
        key_id: str | None = None,
        service: str | None = None,
        model: str | None = None,
        page_size: int | None = None,
    ) -> AsyncPages[Usage]:
        """Sums over days (UTC), keys, services and models; administrators see all keys.

        Args:
            group_by: dimensions of the sums, in order; all four when left out.
            first, last: days, both included; the last 30 when left out.
        """
        call = get(
            "/v1/usage",
            group_by=tuple(group_by) if group_by is not None else None,
            first=first.isoformat() if first else None,
            last=last.isoformat() if last else None,
            key_id=key_id,
            service=service,
            model=model,
            limit=page_size,
        )
        return AsyncPages(self._client, call, Usage)


def _money(amount: Money | None) -> str | None:
    return None if amount is None else str(amount)
