"""`Idempotency-Key`: the same key and body give the same answer, another body gives 409.

A service that creates things adds `IdempotencyRecord` to its tables through `idempotency_table` and
wraps the creation in `Idempotency.once`. The key is claimed in its own transaction before the work
starts, so two requests that race do the work once; a claim whose worker died is free again after
`CLAIM_SECONDS`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Annotated, Any

from fastapi import Header
from sqlalchemy import Column, MetaData, String, Table, Text, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from shared.database import Database, UtcDateTime, utc_now
from shared.principal import Principal
from shared.problems import Conflict

CLAIM_SECONDS = 120
KEPT = timedelta(days=1)

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="repeat the request safely: the same key and body give the same answer for a day",
    ),
]


class IdempotencyConflict(Conflict):
    code, title = "idempotency_conflict", "The idempotency key was used for another request"


class IdempotencyInProgress(Conflict):
    code, title = "idempotency_in_progress", "The first request with this key is still being answered"


def idempotency_table(metadata: MetaData, service: str) -> Table:
    """The table of a service's answers, to be declared beside its other tables."""
    return Table(
        f"{service}_idempotency",
        metadata,
        Column("tenant", String(64), primary_key=True),
        Column("key", String(200), primary_key=True),
        Column("fingerprint", String(64), nullable=False),
        Column("answer", Text, nullable=True),
        Column("made_at", UtcDateTime, nullable=False, index=True),
    )


def fingerprint_of(request: Any) -> str:
    """Hex SHA-256 of JSON data, whatever the order of members. Numbers may have any size."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, default=str).encode()).hexdigest()


class Idempotency:
    """Remembers answers in `table` of `database`."""

    def __init__(self, database: Database, table: Table) -> None:
        self._database, self._table = database, table

    async def once(
        self,
        principal: Principal,
        key: str | None,
        request: Any,
        create: Callable[[], Awaitable[dict[str, Any]]],
    ) -> dict[str, Any]:
        """`create()`'s answer, or the one it gave when this key was first used.

        `request` is JSON data naming the route and the body; it is kept as a hash only. Without a
        key the work is simply done.

        Raises:
            IdempotencyConflict: the key was used with another request.
            IdempotencyInProgress: the first request is still running.
        """
        if key is None:
            return await create()
        fingerprint = fingerprint_of(request)
        known = await self._claim(principal.tenant, key, fingerprint)
        if known is not None:
            return known
        try:
            answer = await create()
        except BaseException:
            await self._release(principal.tenant, key)
            raise
        async with self._database.session() as session:
            await session.execute(
                update(self._table)
                .where(*self._is(principal.tenant, key))
                .values(answer=json.dumps(answer, default=str))
            )
        return answer

    async def _claim(self, tenant: str, key: str, fingerprint: str) -> dict[str, Any] | None:
        now = utc_now()
        table = self._table
        row = {"tenant": tenant, "key": key, "fingerprint": fingerprint, "made_at": now}
        try:
            async with self._database.session() as session:
                stale_claim = (table.c.answer.is_(None)) & (
                    table.c.made_at < now - timedelta(seconds=CLAIM_SECONDS)
                )
                await session.execute(
                    delete(table).where(*self._is(tenant, key), stale_claim | (table.c.made_at < now - KEPT))
                )
                await session.execute(insert(table).values(row))
            return None
        except IntegrityError:
            async with self._database.reading() as session:
                found = (await session.execute(select(table).where(*self._is(tenant, key)))).first()
        if found is None or (found.answer is None and found.fingerprint == fingerprint):
            raise IdempotencyInProgress(headers={"Retry-After": "1"}) from None
        if found.fingerprint != fingerprint:
            raise IdempotencyConflict(
                "This Idempotency-Key was used with another request; use a fresh key."
            ) from None
        answer: dict[str, Any] = json.loads(found.answer)
        return answer

    async def _release(self, tenant: str, key: str) -> None:
        async with self._database.session() as session:
            await session.execute(delete(self._table).where(*self._is(tenant, key)))

    def _is(self, tenant: str, key: str) -> tuple[Any, ...]:
        return self._table.c.tenant == tenant, self._table.c.key == key
