"""Admission in one round trip to Redis, settlement behind the response.

The limiter owns reservations from `admit` to `settle`. Whatever happens to a call, `settle` runs in a
`finally` and only puts a command on the wire: it awaits nothing, so no cancellation can lose it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from gateway.auth import Authenticator, Caller
from gateway.keys import Key
from gateway.limits import scripts
from gateway.limits.calls import Admission, RateLimited, TooManyTokens, Usage
from gateway.limits.journal import Journal
from gateway.limits.local import LocalLimits
from gateway.prices import usd as dollars
from shared.problems import BudgetExceeded, Problem, ServiceUnavailable, Unauthorized
from shared.redis_pipe import RedisDown, RedisPipe, RedisRefused
from shared.telemetry import logger

log = logger(__name__)

Seed = Callable[[Key, str], Awaitable[None]]


class LimiterUnavailable(ServiceUnavailable):
    code, title = "limits_unavailable", "Rates and budgets cannot be checked at the moment"


class Limiter:
    """Rates, budgets and revocation of all keys, shared by every gateway process through Redis.

    Args:
        pipe: connection with `scripts.SCRIPTS` loaded.
        callers: loads a caller again whose copy of the key is out of date.
        seed: sets a budget's counters from the ledger, where Redis does not have them.
        local: the keys served while Redis is away, and their limits.
        journal: where settlements wait that Redis could not take.
        life: seconds a reservation lives without a sign of its owner.
    """

    ATTEMPTS = 4

    def __init__(
        self,
        pipe: RedisPipe,
        callers: Authenticator,
        seed: Seed,
        local: LocalLimits,
        journal: Journal,
        life: float,
    ) -> None:
        self._pipe = pipe
        self._callers = callers
        self._keys = callers.keys
        self._seed = seed
        self._local = local
        self._journal = journal
        self._life_ms = int(life * 1000)
        self._life = life
        self._running: set[Admission] = set()
        self._unconfirmed: set[asyncio.Future[Any]] = set()
        self._task: asyncio.Task[None] | None = None
        self.rejections: dict[str, int] = {}

    @property
    def unconfirmed(self) -> int:
        """Settlements that Redis has not confirmed yet, and those that wait for it in the journal."""
        return len(self._unconfirmed) + self._journal.waiting

    async def start(self) -> None:
        """Begin to renew reservations of long calls and to sweep abandoned ones."""
        self._task = asyncio.create_task(self._tend())

    async def close(self) -> None:
        """Wait until Redis has confirmed what was settled, or the journal has it."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._unconfirmed:
            await asyncio.wait(self._unconfirmed, timeout=5)

    async def admit(
        self,
        caller: Caller,
        call_id: str,
        meta: bytes,
        *,
        rate_tokens: int = 0,
        tokens: int = 0,
        usd: int = 0,
    ) -> Admission:
        """Check that the caller's key is valid and let the call in, with its worst case reserved.

        Args:
            call_id: unique; names the reservation.
            meta: JSON list of tenant, key, budget, service, model.
            rate_tokens: tokens expected, for the rate.
            tokens, usd: tokens and micro-dollars at worst, for the budget.

        Raises:
            Unauthorized: the key is revoked or expired.
            RateLimited, TooManyTokens, BudgetExceeded: it is, for now or for good.
            LimiterUnavailable: Redis is away and the key is not among those served without it.
        """
        for _ in range(self.ATTEMPTS):
            key, now = caller.key, time.time()
            check_valid(key, now)
            version, budget_key = key.version, key.budget_key(now)
            try:
                reply = await self._pipe.run(
                    "reserve",
                    3,
                    scripts.VERSIONS,
                    key.rate_key,
                    budget_key,
                    key.id,
                    version,
                    key.requests_per_minute,
                    key.tokens_per_minute,
                    rate_tokens,
                    usd,
                    tokens,
                    key.budget_usd,
                    key.budget_tokens,
                    call_id,
                    self._life_ms,
                    meta,
                )
            except (RedisDown, RedisRefused) as error:
                return self._admit_locally(key, call_id, meta, rate_tokens, tokens, usd, error)
            code = reply[0]
            if code == scripts.OK:
                admission = Admission(
                    call_id, key, version, budget_key, usd, tokens, meta,
                    reply[4].decode(), reply[2], reply[3], now,
                )  # fmt: skip
                if usd or tokens:
                    self._running.add(admission)
                return admission
            if code == scripts.STALE:
                caller = await self._renew(caller)
            elif code == scripts.UNSEEDED:
                await self._seed(key, budget_key)
            else:
                raise self._refusal(code, reply[1], key)
        raise LimiterUnavailable("The key is being changed; try again.", retry_after=1)

    async def _renew(self, caller: Caller) -> Caller:
        """The caller with the newest copy of its key; Redis learns of it, too."""
        fresh = await self._callers.renew(caller)
        with contextlib.suppress(RedisDown, RedisRefused):
            await self._pipe.run("publish", 0, fresh.key.id, fresh.key.version)
        return fresh

    def settle(self, admission: Admission, usage: Usage) -> None:
        """Book what a call used and give the rest back. Never waits, never raises, counts once."""
        if admission.settled:
            return
        admission.settled = True
        self._running.discard(admission)
        if not admission.epoch:
            self._local.settle(admission.key, admission.usd, usage.cost)
        try:
            if not admission.reserved and not usage.cost and admission.epoch:
                future = self._pipe.run("note", 0, int(usage.failed), admission.meta)
            else:
                future = self._pipe.run("settle", 0, *_booking(admission, usage), 1)
        except RedisDown:
            self._journal.append([*_booking(admission, usage), 1])
            return
        self._unconfirmed.add(future)

        def confirmed(done: asyncio.Future[Any]) -> None:
            self._unconfirmed.discard(done)
            if done.cancelled() or done.exception() is not None:
                # It may have been booked before the connection broke: Redis tells by the epoch.
                self._journal.append([*_booking(admission, usage), 0])

        future.add_done_callback(confirmed)

    async def replay(self) -> int:
        """Book what waits in the journal; how many settlements that were."""
        self._local.reset()
        booked = 0
        for path, entries in self._journal.take():
            for entry in entries:
                await self._pipe.run("settle", 0, *entry)
            self._journal.done(path, len(entries))
            booked += len(entries)
        if booked:
            log.info("settlements replayed", count=booked)
        return booked

    def _admit_locally(
        self,
        key: Key,
        call_id: str,
        meta: bytes,
        rate_tokens: int,
        tokens: int,
        usd: int,
        error: Exception,
    ) -> Admission:
        if key.id not in self._local.keys:
            self._count("redis_down")
            raise LimiterUnavailable(
                "Rates and budgets cannot be checked at the moment, so nothing is let through.",
                retry_after=2,
            ) from error
        self._local.reserve(key, rate_tokens, usd)
        now = time.time()
        return Admission(call_id, key, key.version, key.budget_key(now), usd, tokens, meta, started=now)

    def _refusal(self, code: int, amount: int, key: Key) -> Problem:
        if code == scripts.REQUESTS:
            self._count("requests")
            limit = key.requests_per_minute
            return RateLimited(
                f"The key may make {limit} requests a minute; they are used up.",
                retry_after=amount / 1000,
            )
        if code == scripts.TOKENS:
            self._count("tokens")
            limit = key.tokens_per_minute
            return RateLimited(
                f"The key may use {limit} tokens a minute; this call does not fit any more.",
                retry_after=amount / 1000,
            )
        if code == scripts.TOO_MANY_TOKENS:
            self._count("tokens")
            return TooManyTokens(
                f"The call may use more tokens than the key may in a minute ({amount}); "
                "shorten the prompt or ask for less with max_tokens."
            )
        self._count("budget")
        if code == scripts.MONEY:
            return BudgetExceeded(
                f"The budget has {dollars(max(0, amount))} USD left, less than this call may cost; "
                "a smaller max_tokens costs less."
            )
        return BudgetExceeded(
            f"The budget has {max(0, amount)} tokens left, fewer than this call may use; "
            "a smaller max_tokens uses less."
        )

    def _count(self, reason: str) -> None:
        self.rejections[reason] = self.rejections.get(reason, 0) + 1

    # Long calls and abandoned ones.

    async def _tend(self) -> None:
        """Every sixth of a reservation's life: renew the running, sweep the abandoned."""
        while True:
            await asyncio.sleep(self._life / 6)
            try:
                self._renew_running()
                await self.sweep()
            except (RedisDown, RedisRefused):
                continue

    def _renew_running(self) -> None:
        oldest = time.time() - self._life / 6
        for admission in list(self._running):
            if admission.started <= oldest:
                self._beat(admission)

    def _beat(self, admission: Admission) -> None:
        so_far = admission.so_far()
        future = self._pipe.run(
            "heartbeat", 0, admission.id, self._life_ms, so_far.prompt, so_far.completion,
            so_far.cached, so_far.cost, admission.key.id, admission.version, admission.budget_key,
            admission.usd, admission.tokens, admission.meta,
        )  # fmt: skip

        def answered(done: asyncio.Future[Any]) -> None:
            if done.cancelled() or done.exception() is not None:
                return
            if done.result() == 2:
                self._keys.invalidate(admission.key.id)
                task = asyncio.ensure_future(self._refresh(admission))
                self._unconfirmed.add(task)
                task.add_done_callback(self._unconfirmed.discard)

        future.add_done_callback(answered)

    async def _refresh(self, admission: Admission) -> None:
        """The key was changed under a running call; the shared copy shows a revocation."""
        with contextlib.suppress(Unauthorized, ServiceUnavailable):
            fresh = await self._keys.get_by_id(admission.key.id)
            admission.version = fresh.version

    async def sweep(self) -> int:
        """Settle reservations whose owner is gone; how many."""
        swept: int = await self._pipe.run("sweep", 0, 500)
        if swept:
            log.warning("abandoned reservations settled", count=swept)
        return swept


def _booking(admission: Admission, usage: Usage) -> list[str | bytes | int]:
    return [
        admission.id, admission.epoch, usage.prompt, usage.completion, usage.cached, usage.cost,
        int(usage.failed), admission.meta, admission.budget_key,
    ]  # fmt: skip


def check_valid(key: Key, now: float) -> None:
    """Refuse a revoked or expired key; `now` in Unix seconds."""
    if key.revoked:
        raise Unauthorized("The key has been revoked.", code="key_revoked")
    if key.expires_at is not None and now >= key.expires_at:
        raise Unauthorized("The key has expired.", code="key_expired")


def describe(key: Key, service: str, model: str) -> bytes:
    """Who and what, as the ledger reads it."""
    known = key.descriptions.get((service, model))
    if known is None:
        known = orjson.dumps([key.tenant, key.id, key.budget_id or "", service, model])
        if len(key.descriptions) < 64:  # Names of models come from outside.
            key.descriptions[(service, model)] = known
    return known
