"""What breaks around the gateway, for real: Redis killed, frozen and emptied, processes killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from sqlalchemy import text

from deploy.redis_server import RedisServer, start_redis
from gateway.keys import new_secret
from gateway.management import new_key_row
from gateway.store import BudgetRow, KeyStore
from shared.app import free_port
from shared.database import Database, migrate, new_id, utc_now
from shared.upstream import UpstreamDied
from tests.conftest import SECRET
from tests.integration.gateway.live import (
    BODY,
    CHAT,
    HELLO,
    SSE,
    Answer,
    Live,
    answers,
    chunk,
    event,
    gateway,
    http,
)
from tests.integration.gateway.restart import restart
from tests.unit.upstream.servers import Call, serving

PRICES = {"default": {"prompt": "0", "completion": "1000"}}


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    server = start_redis(tmp_path / "redis")
    yield server
    server.kill()


async def until_served(live: Live, key: str) -> Answer:
    async with asyncio.timeout(10):
        while (answer := await live.chat(key)).status == 503:
            await asyncio.sleep(0.05)
    return answer


async def test_redis_down_refuses_with_retry_after_and_recovers_by_itself(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with (
        serving(answers()) as server,
        gateway(own_redis.url, tmp_path / "home", {"model": server.url}, prices=PRICES) as live,
    ):
        key = await live.new_key(budget={"usd": "1"})
        assert (await live.chat(key)).status == 200
        await live.usage()
        own_redis.kill()
        refused = await live.chat(key)
        assert refused.status == 503
        assert refused.json["error"]["code"] == "limits_unavailable"
        assert int(refused.headers["retry-after"]) >= 1
        ready = await live.call("GET", "/readyz", key="")
        assert (ready.status, "redis" in ready.json["not_ready"]) == (503, True)
        assert (await live.call("GET", "/healthz", key="")).status == 200
        again = restart(own_redis)
        try:
            assert (await until_served(live, key)).status == 200
            assert (await live.usage())["requests"] == 2
        finally:
            again.kill()


async def test_redis_frozen_is_noticed_and_calls_do_not_hang(own_redis: RedisServer, tmp_path: Path) -> None:
    async with (
        serving(answers()) as server,
        gateway(own_redis.url, tmp_path / "home", {"model": server.url}) as live,
    ):
        key = await live.new_key()
        await live.chat(key)
        os.kill(own_redis.process.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(3):
                refused = await live.chat(key)
            assert refused.status == 503
        finally:
            os.kill(own_redis.process.pid, signal.SIGCONT)
        assert (await until_served(live, key)).status == 200


async def test_configured_keys_are_served_within_local_limits_and_booked_afterwards(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with (
        serving(answers()) as server,
        gateway(
            own_redis.url, tmp_path / "home", {"model": server.url}, prices=PRICES, redis_down_usd="0.025"
        ) as live,
    ):
        served = await live.new_key(budget={"usd": "10"}, requests_per_minute=100)
        other = await live.new_key()
        for key in (served, other):
            assert (await live.chat(key)).status == 200
        assert (await live.usage())["cost"] == 6000
        found = live.app.front.callers.find(served)
        assert found is not None
        live.limiter._local.keys = frozenset({found.key.id})
        own_redis.kill()
        assert (await live.chat(other)).status == 503
        # Each call may cost 10 tokens at 0.001 dollars and costs 3: the allowance is for six.
        statuses = [(await live.chat(served)).status for _ in range(10)]
        assert statuses == [200] * 6 + [402] * 4
        again = restart(own_redis)
        try:
            await until_served(live, other)
            async with asyncio.timeout(5):
                while (await live.usage())["requests"] < 9:
                    await asyncio.sleep(0.05)
            usage = await live.usage()
            assert (usage["requests"], usage["cost"]) == (9, 9 * 3000)
            budget = (await live.call("GET", "/v1/budgets")).json["data"][0]
            assert budget["used_usd"] == "0.021"
        finally:
            again.kill()


async def test_redis_that_lost_everything_is_rebuilt_from_the_ledger(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    async with (
        serving(answers()) as server,
        gateway(own_redis.url, tmp_path / "home", {"model": server.url}, prices=PRICES) as live,
    ):
        key = await live.new_key(budget={"usd": "0.015"})
        assert [(await live.chat(key)).status for _ in range(3)] == [200, 200, 402]
        await live.usage()
        own_redis.kill()
        again = restart(own_redis, lose_data=True)
        try:
            refused = await until_served(live, key)
            assert refused.status == 402, "what was spent is not forgotten"
            made = await live.new_key(budget={"usd": "1"})
            assert (await live.chat(made)).status == 200
            assert (await live.usage())["cost"] == 9000
        finally:
            again.kill()


async def test_a_stream_outlives_redis_and_is_booked_when_it_is_back(
    own_redis: RedisServer, tmp_path: Path
) -> None:
    go_on = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.body()
        await call.send(SSE + chunk(event()))
        await go_on.wait()
        await call.send(chunk(event() + b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with (
        serving(handler) as server,
        gateway(own_redis.url, tmp_path / "home", {"model": server.url}, prices=PRICES) as live,
    ):
        key = await live.new_key(budget={"usd": "1"})
        stream = await live.open("POST", CHAT, key=key, body={**BODY, "stream": True})
        await stream.read()
        own_redis.kill()
        await asyncio.sleep(0.1)
        go_on.set()
        assert (await stream.read_all(1000)).endswith(b"data: [DONE]\n\n")
        again = restart(own_redis)
        try:
            async with asyncio.timeout(10):
                while True:
                    budget = (await live.call("GET", "/v1/budgets")).json
                    if "data" in budget and budget["data"][0]["used_usd"] == "0.002":
                        break
                    await asyncio.sleep(0.05)
            assert budget["data"][0]["reserved_usd"] == "0.00"
            assert (await live.usage())["completion_tokens"] == 2
        finally:
            again.kill()


DYING_UPSTREAM = r"""
import socket, sys, time
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    client.recv(65536)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    data = b'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n'
    client.sendall(head)
    while True:
        client.sendall(b"%x\r\n%b\r\n" % (len(data), data))
        time.sleep(0.02)
"""


def start_upstream(port: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", DYING_UPSTREAM, str(port)])


async def test_an_upstream_killed_mid_stream_ends_in_an_error_event_and_is_settled(
    redis_url: str, tmp_path: Path
) -> None:
    port = free_port()
    process = start_upstream(port)
    try:
        url = f"http://127.0.0.1:{port}"
        async with gateway(redis_url, tmp_path, {"model": url}, retries=10, prices=PRICES) as live:
            key = await live.new_key(budget={"usd": "1"})
            stream = await live.open("POST", CHAT, key=key, body={**BODY, "stream": True})
            assert stream.status == 200
            received = b""
            while received.count(b"data:") < 5:
                received += await stream.read()
            process.kill()

            async def rest() -> None:
                nonlocal received
                while piece := await stream.read():
                    received += piece

            with pytest.raises(UpstreamDied):
                await asyncio.wait_for(rest(), 5)
            last = orjson.loads(received.rstrip().rpartition(b"data: ")[2])
            assert last["error"]["code"] == "upstream_failed"
            chunks = received.count(b"data:") - 1
            usage = await live.usage()
            assert (usage["completion_tokens"], usage["cost"]) == (chunks, chunks * 1000)
            budget = (await live.call("GET", "/v1/budgets")).json["data"][0]
            assert budget["reserved_usd"] == "0.00"
    finally:
        process.kill()
        process.wait()


def start_gateway(home: Path, redis_url: str, upstream: str, **settings: str) -> tuple[Any, str]:
    port = free_port()
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("LATTICEWORK_")
    } | {
        "LATTICEWORK_HOME": str(home),
        "LATTICEWORK_REDIS_URL": redis_url,
        "LATTICEWORK_PRINCIPAL_SECRET": SECRET,
        "LATTICEWORK_PORT": str(port),
        "LATTICEWORK_GATEWAY_UPSTREAMS": orjson.dumps({"model": upstream}).decode(),
        "LATTICEWORK_GATEWAY_PRICES": orjson.dumps(PRICES).decode(),
        "LATTICEWORK_GATEWAY_FLUSH_SECONDS": "60",
        "LATTICEWORK_GATEWAY_RESERVATION_SECONDS": "2",
        **settings,
    }
    process = subprocess.Popen([sys.executable, "-m", "gateway"], env=environment)
    return process, f"http://127.0.0.1:{port}"


async def key_in(database_url: str) -> str:
    await migrate(database_url, "gateway")
    database = Database(database_url)
    store = KeyStore(database)
    budget = BudgetRow(id=new_id("budget"), tenant="acme", name="b", period="total")
    budget.limit_usd, budget.limit_tokens, budget.created_at = 1_000_000, None, utc_now()
    await store.add(budget)
    secret = new_secret()
    await store.add(new_key_row("acme", "k", secret, ["model"], budget_id=budget.id))
    await database.close()
    return secret


async def wait_ready(url: str) -> None:
    async with httpx.AsyncClient() as client, asyncio.timeout(60):
        while True:
            try:
                if (await client.get(f"{url}/healthz")).status_code == 200:
                    return
            except httpx.HTTPError:
                await asyncio.sleep(0.1)


async def test_killed_and_stopped_gateways_lose_nothing_that_was_settled(
    redis_url: str, tmp_path: Path
) -> None:
    """SIGKILL in the middle of a stream: the reservation is given back, what is known is booked.

    SIGTERM: everything settled is in the database before the process ends.
    """

    async def handler(call: Call) -> None:
        body = orjson.loads(await call.body())
        if not body.get("stream"):
            await call.send(http(200, orjson.dumps(HELLO)))
            return
        await call.send(SSE)
        while True:
            await call.send(chunk(event()))
            await asyncio.sleep(0.05)

    home = tmp_path / "home"
    key = await key_in(f"sqlite:///{home.resolve()}/gateway.db")
    headers = {"authorization": f"Bearer {key}"}
    async with serving(handler) as server:
        process, url = start_gateway(home, redis_url, server.url)
        try:
            await wait_ready(url)
            async with httpx.AsyncClient(headers=headers, timeout=10) as client:
                for _ in range(5):
                    answer = await client.post(f"{url}{CHAT}", json=BODY)
                    assert answer.status_code == 200
                body = {**BODY, "stream": True, "max_tokens": 900}
                async with client.stream("POST", f"{url}{CHAT}", json=body) as stream:
                    started = time.monotonic()
                    async for _ in stream.aiter_raw():
                        if time.monotonic() - started > 1.2:  # Some signs of life have been given.
                            break
                    process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.wait()
        # Another gateway, on the same database and Redis, tidies up.
        async with gateway(
            redis_url, home, {"model": server.url}, prices=PRICES, reservation_seconds=2
        ) as live:
            async with asyncio.timeout(15):
                while True:
                    budget = (await live.call("GET", "/v1/budgets")).json["data"][0]
                    if budget["reserved_usd"] == "0.00":
                        break
                    await asyncio.sleep(0.1)
            usage = await live.usage(service="model")
            assert usage["requests"] == 6
            assert usage["failures"] == 1
            assert usage["completion_tokens"] > 15, "the killed stream is paid as far as it was known"
            assert usage["cost"] == 1000 * usage["completion_tokens"]
        # A clean stop writes down what the flusher, once a minute here, has not come to yet.
        process, url = start_gateway(home, redis_url, server.url)
        try:
            await wait_ready(url)
            async with httpx.AsyncClient(headers=headers, timeout=10) as client:
                for _ in range(4):
                    await client.post(f"{url}{CHAT}", json=BODY)
            process.send_signal(signal.SIGTERM)
            process.wait(15)
        finally:
            process.kill()
            process.wait()
    database = Database(f"sqlite:///{home.resolve()}/gateway.db")
    async with database.reading() as session:
        count = text("SELECT SUM(requests) FROM gateway_usage WHERE service = 'model'")
        total = (await session.execute(count)).scalar_one()
    await database.close()
    assert total == 10
