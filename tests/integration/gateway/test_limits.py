"""Rates, budgets and settlement against a real Redis and a real ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.keys import digest, new_secret
from gateway.limits import Admission, Usage
from gateway.limits.calls import RateLimited, TooManyTokens
from shared.database import Database, migrate, schema_drift, utc_now
from shared.principal import Principal, PrincipalSigner
from shared.problems import BudgetExceeded, Problem, Unauthorized
from tests.conftest import SECRET
from tests.integration.gateway.stack import Stack, running


@pytest.fixture
async def stack(redis_url: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(redis_url, f"sqlite:///{tmp_path}/gateway.db", tmp_path) as stack:
        yield stack


async def test_budget_race_64_calls_with_money_for_10_never_overspend(stack: Stack) -> None:
    caller = await stack.caller(await stack.new_key(usd=1000))

    async def call() -> Admission | None:
        try:
            return await stack.admit(caller, usd=100, tokens=10)
        except BudgetExceeded:
            return None

    results = await asyncio.gather(*(call() for _ in range(64)))
    admitted = [result for result in results if result is not None]
    assert len(admitted) == 10
    assert (await stack.counters(caller))["rusd"] == 1000
    for admission in admitted:
        stack.limiter.settle(admission, Usage(prompt=3, completion=4, cost=70))
    counters = await stack.counters(caller)
    assert (counters["usd"], counters["rusd"], counters["tok"], counters["rtok"]) == (700, 0, 70, 0)
    results = await asyncio.gather(*(call() for _ in range(64)))
    assert sum(result is not None for result in results) == 3


async def test_tpm_limit_is_not_multiplied_by_replicas(redis_url: str, tmp_path: Path) -> None:
    """LiteLLM #40291: check and reservation are one step on one counter, however many gateways."""
    database = f"sqlite:///{tmp_path}/gateway.db"
    async with (
        running(redis_url, database, tmp_path) as one,
        running(redis_url, database, tmp_path) as two,
    ):
        secret = await one.new_key(tokens_per_minute=1000)
        callers = [await one.caller(secret), await two.caller(secret)]

        async def call(index: int) -> bool:
            try:
                await (one, two)[index % 2].admit(callers[index % 2], rate_tokens=100, tokens=100)
            except RateLimited:
                return False
            return True

        admitted = await asyncio.gather(*(call(index) for index in range(40)))
        assert sum(admitted) == 10


async def test_requests_a_minute(stack: Stack) -> None:
    caller = await stack.caller(await stack.new_key(requests_per_minute=5))
    left = [(await stack.admit(caller)).requests_left for _ in range(5)]
    assert left == [4, 3, 2, 1, 0]
    with pytest.raises(RateLimited) as refused:
        await stack.admit(caller)
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 60 * (1 + 1 / 5)


async def test_the_minute_slides(stack: Stack) -> None:
    caller = await stack.caller(await stack.new_key(requests_per_minute=10, tokens_per_minute=1000))
    await stack.admit(caller, rate_tokens=10, tokens=10)
    seconds = (await stack.pipe.call("TIME"))[0]
    window = int(seconds) // 60
    # A full minute before this one counts by the share of it that is still in sight.
    await stack.pipe.call("HSET", caller.key.rate_key, "w", window - 1, "r0", 0, "r1", 1000, "t0", 0, "t1", 0)
    with pytest.raises(RateLimited):
        await stack.admit(caller)
    await stack.pipe.call("HSET", caller.key.rate_key, "w", window - 2)
    assert (await stack.admit(caller)).requests_left == 9


async def test_unused_tokens_return_to_the_rate(stack: Stack) -> None:
    caller = await stack.caller(await stack.new_key(tokens_per_minute=100))
    admission = await stack.admit(caller, rate_tokens=90, tokens=90)
    with pytest.raises(RateLimited):
        await stack.admit(caller, rate_tokens=50, tokens=50)
    stack.limiter.settle(admission, Usage(prompt=5, completion=5, cost=1))
    assert (await stack.admit(caller, rate_tokens=50, tokens=50)).tokens_left == 40
    with pytest.raises(TooManyTokens):
        await stack.admit(caller, rate_tokens=101, tokens=101)


async def test_a_refused_call_changes_nothing(stack: Stack) -> None:
    caller = await stack.caller(await stack.new_key(usd=10, requests_per_minute=3))
    for _ in range(5):
        with pytest.raises(BudgetExceeded):
            await stack.admit(caller, usd=11)
    assert (await stack.admit(caller, usd=1)).requests_left == 2
    assert (await stack.counters(caller))["rusd"] == 1


async def test_a_budget_in_tokens(stack: Stack) -> None:
    caller = await stack.caller(await stack.new_key(tokens=100))
    await stack.admit(caller, tokens=60)
    with pytest.raises(BudgetExceeded, match="40 tokens left"):
        await stack.admit(caller, tokens=60)


async def test_a_daily_budget_is_counted_by_day(stack: Stack) -> None:
    caller = await stack.caller(await stack.new_key(usd=100, period="day"))
    await stack.admit(caller, usd=100)
    now = 1_800_000_000.0
    first = caller.key.budget_key(now)
    assert caller.key.budget_key(now + 60) == first
    assert caller.key.budget_key(now + 86400) != first


async def test_settling_twice_counts_once(stack: Stack) -> None:
    caller = await stack.caller(await stack.new_key(usd=1000))
    admission = await stack.admit(caller, usd=100, tokens=10)
    usage = Usage(prompt=1, completion=2, cost=30)
    stack.limiter.settle(admission, usage)
    stack.limiter.settle(admission, usage)
    assert (await stack.counters(caller))["usd"] == 30
    assert (await stack.totals())["cost"] == 30


async def test_a_leaked_reservation_does_not_block_a_user(redis_url: str, tmp_path: Path) -> None:
    """otari #128: a reservation has a life, and what was known to be used is booked at its end."""
    async with running(redis_url, f"sqlite:///{tmp_path}/g.db", tmp_path, life=0.6) as stack:
        caller = await stack.caller(await stack.new_key(usd=100))
        admission = await stack.admit(caller, usd=100, tokens=50)
        admission.so_far = lambda: Usage(prompt=5, completion=6, cost=22)
        await asyncio.sleep(0.9)
        assert (await stack.counters(caller))["rusd"] == 100, "its owner lives and says so"
        stack.limiter._running.clear()  # The owner dies.
        async with asyncio.timeout(5):
            while (await stack.counters(caller))["rusd"]:
                await asyncio.sleep(0.05)
        assert (await stack.counters(caller))["usd"] == 22
        assert (await stack.totals())["completion_tokens"] == 6
        # It was only slow after all: the difference is booked.
        stack.limiter.settle(admission, Usage(prompt=5, completion=10, cost=30))
        assert (await stack.counters(caller))["usd"] == 30
        totals = await stack.totals()
        assert (totals["completion_tokens"], totals["cost"], totals["requests"]) == (10, 30, 1)
        assert totals["failures"] == 0


async def test_budget_is_enforced_by_the_counter_it_writes_not_by_a_projection(stack: Stack) -> None:
    """langwatch #6141: nothing has reached the ledger yet, and the limit holds already."""
    caller = await stack.caller(await stack.new_key(usd=100))
    stack.limiter.settle(await stack.admit(caller, usd=60), Usage(cost=60))
    with pytest.raises(BudgetExceeded):
        await stack.admit(caller, usd=60)


async def test_changes_of_a_key_are_seen_by_the_next_call(stack: Stack) -> None:
    secret = await stack.new_key(requests_per_minute=100)
    caller = await stack.caller(secret)
    await stack.admit(caller)
    row = await stack.keys.change("acme", caller.key.id, requests_per_minute=7)
    await stack.pipe.run("publish", 0, row.id, row.version)
    assert (await stack.admit(await stack.caller(secret))).requests_left < 7


async def test_a_revoked_key_is_refused_by_the_next_call_of_another_gateway(
    redis_url: str, tmp_path: Path
) -> None:
    database = f"sqlite:///{tmp_path}/gateway.db"
    async with (
        running(redis_url, database, tmp_path) as one,
        running(redis_url, database, tmp_path) as two,
    ):
        secret = await one.new_key()
        caller = await two.caller(secret)
        await two.admit(caller)
        row = await one.keys.change("acme", caller.key.id, revoked_at=utc_now())
        await one.pipe.run("publish", 0, row.id, row.version)
        with pytest.raises(Unauthorized) as refused:
            await two.admit(caller)
        assert refused.value.instance_code == "key_revoked"


async def test_a_rotated_secret_stops_even_where_the_key_is_cached(stack: Stack) -> None:
    old = await stack.new_key()
    caller = await stack.caller(old)
    await stack.admit(caller)
    fresh = new_secret()
    row = await stack.keys.change("acme", caller.key.id, hash=digest(fresh))
    await stack.pipe.run("publish", 0, row.id, row.version)
    with pytest.raises(Unauthorized):
        await stack.admit(caller)
    await stack.admit(await stack.caller(fresh))


async def test_principal_tokens_pay_from_the_same_budget(stack: Stack) -> None:
    secret = await stack.new_key(usd=100, scopes=("model", "sql"))
    caller = await stack.caller(secret)
    await stack.admit(caller, usd=60)
    signer = PrincipalSigner(SECRET)
    principal = Principal(caller.key.id, "acme", frozenset({"model", "vision"}))
    inner = await stack.callers.get(signer.sign(principal, audience="gateway"))
    assert inner.scopes == {"model"}, "never more than the key itself has"
    with pytest.raises(BudgetExceeded):
        await stack.admit(inner, usd=60)
    for bad in (
        signer.sign(principal, audience="vision"),
        PrincipalSigner("x" * 40).sign(principal, audience="gateway"),
        signer.sign(Principal(caller.key.id, "other", frozenset({"model"})), audience="gateway"),
        signer.sign(Principal("key_unknown", "acme", frozenset({"model"})), audience="gateway"),
        "eyJ.x.y",
        "",
    ):
        with pytest.raises(Unauthorized):
            await stack.callers.get(bad)


async def test_invented_keys_are_refused(stack: Stack) -> None:
    good = await stack.new_key()
    for bad in ("lw_x", good[:-1] + ("0" if good[-1] != "0" else "1"), good + "0", "lw_" + "a" * 49):
        with pytest.raises(Unauthorized):
            await stack.callers.get(bad)
    with pytest.raises(Unauthorized):
        await stack.callers.get(new_secret())
    await stack.callers.get(good)


async def test_usage_reaches_the_ledger_once_whoever_writes_it(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    async with (
        running(redis_url, database_url, tmp_path) as one,
        running(redis_url, database_url, tmp_path) as two,
    ):
        secrets = [await one.new_key(usd=10_000_000) for _ in range(3)]
        callers = [await one.caller(secret) for secret in secrets]
        for index in range(300):
            admission = await one.admit(callers[index % 3], usd=100, tokens=10)
            one.limiter.settle(admission, Usage(prompt=2, completion=3, cached=1, cost=7))
            if index % 50 == 0:
                await asyncio.gather(one.ledger.flush(), two.ledger.flush())
        await asyncio.gather(one.ledger.flush(), two.ledger.flush(), one.ledger.flush())
        totals = await one.totals()
        assert totals == {
            "requests": 300,
            "failures": 0,
            "prompt_tokens": 600,
            "completion_tokens": 900,
            "cached_tokens": 300,
            "cost": 2100,
        }
        assert await one.pipe.call("XLEN", "lw:usage") == 0, "what is in SQL leaves Redis"


async def test_counters_are_rebuilt_when_redis_lost_its_data(stack: Stack) -> None:
    secret = await stack.new_key(usd=1000, requests_per_minute=100)
    caller = await stack.caller(secret)
    for _ in range(3):
        stack.limiter.settle(await stack.admit(caller, usd=300, tokens=5), Usage(prompt=2, cost=300))
    await stack.ledger.flush()
    running_call = await stack.admit(caller, usd=50, tokens=5)
    await stack.pipe.call("FLUSHALL")
    # A call from before the loss is settled after it, its reservation being gone.
    stack.limiter.settle(running_call, Usage(prompt=2, cost=50))
    with pytest.raises(BudgetExceeded):
        await stack.admit(caller, usd=51)
    await stack.admit(caller, usd=50)
    assert (await stack.counters(caller))["usd"] == 950
    assert (await stack.totals())["cost"] == 950


async def test_a_running_call_is_reserved_again_after_a_loss(redis_url: str, tmp_path: Path) -> None:
    async with running(redis_url, f"sqlite:///{tmp_path}/g.db", tmp_path, life=1.2) as stack:
        caller = await stack.caller(await stack.new_key(usd=100))
        admission = await stack.admit(caller, usd=80, tokens=5)
        await stack.pipe.call("FLUSHALL")
        await asyncio.sleep(0.5)
        with pytest.raises(BudgetExceeded):
            await stack.admit(caller, usd=30)
        stack.limiter.settle(admission, Usage(cost=10))
        await stack.admit(caller, usd=90)


async def test_spend_writes_do_not_deadlock_and_auth_survives_the_database(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LiteLLM #6895, #15536: a key at hand is served while the database is away."""
    caller = await stack.caller(await stack.new_key(usd=1000))
    stack.limiter.settle(await stack.admit(caller, usd=10), Usage(cost=10))

    def broken(self: Database) -> None:
        raise OSError("the database is away")

    with monkeypatch.context() as patch:
        patch.setattr(Database, "session", broken)
        patch.setattr(Database, "reading", broken)
        stack.limiter.settle(await stack.admit(caller, usd=10), Usage(cost=10))
        with pytest.raises(OSError):
            await stack.ledger.flush()
        with pytest.raises(Problem) as refused:
            await stack.callers.get(new_secret())
        assert refused.value.status == 503
    assert (await stack.totals())["cost"] == 20


async def test_the_migration_makes_the_tables_of_the_models(database_url: str, tmp_path: Path) -> None:
    await migrate(database_url, "gateway")
    assert await schema_drift(database_url, "gateway") == []
