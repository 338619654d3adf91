"""The coalescing Redis connection against a real server that is flushed, stopped and frozen."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from deploy.redis_server import start_redis
from shared.redis_pipe import RedisDown, RedisPipe, RedisRefused
from tests.integration.gateway.restart import restart

SCRIPTS = {"add": "return redis.call('INCRBY', KEYS[1], ARGV[1])"}


async def connected(pipe: RedisPipe) -> None:
    async with asyncio.timeout(5):
        while not pipe.connected:
            await asyncio.sleep(0.01)


async def test_calls_and_scripts_answer_in_order(redis_url: str) -> None:
    pipe = RedisPipe(redis_url, SCRIPTS)
    await pipe.start()
    replies = await asyncio.gather(*(pipe.run("add", 1, "n", 1) for _ in range(500)))
    assert replies == list(range(1, 501))
    assert await pipe.call("GET", "n") == b"500"
    with pytest.raises(RedisRefused):
        await pipe.call("LPUSH", "n", "x")
    assert await pipe.call("PING") == b"PONG"
    await pipe.close()
    with pytest.raises(RedisDown):
        pipe.call("PING")


async def test_a_cancelled_call_does_not_shift_the_replies_of_others(redis_url: str) -> None:
    pipe = RedisPipe(redis_url, SCRIPTS)
    await pipe.start()
    first = pipe.call("ECHO", "first")
    second = pipe.call("ECHO", "second")
    first.cancel()
    assert await second == b"second"
    await pipe.close()


async def test_database_and_password_come_from_the_address(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    try:
        setup = RedisPipe(server.url)
        await setup.start()
        await setup.call("CONFIG", "SET", "requirepass", "s3cret/+")
        await setup.close()
        place = server.url.rpartition("@")[2].replace("/0", "/3")
        pipe = RedisPipe(f"redis://:s3cret%2F%2B@{place}")
        await pipe.start()
        await pipe.call("SET", "here", "1")
        assert b"db3:keys=1" in await pipe.call("INFO", "keyspace")
        await pipe.close()
        wrong = RedisPipe(f"redis://{place}")
        await wrong.start(wait=0.2)
        with pytest.raises(RedisDown, match="NOAUTH"):
            wrong.call("PING")
        await wrong.close()
    finally:
        server.kill()


async def test_scripts_survive_a_flush_of_the_server(redis_url: str) -> None:
    pipe = RedisPipe(redis_url, SCRIPTS)
    await pipe.start()
    await pipe.call("SCRIPT", "FLUSH")
    with pytest.raises(RedisRefused):
        await pipe.run("add", 1, "n", 1)
    await asyncio.sleep(0.01)
    await connected(pipe)
    assert await pipe.run("add", 1, "n", 1) == 1
    await pipe.close()


async def test_a_restarted_server_is_found_again(tmp_path: Path) -> None:
    seen = 0

    def on_connect() -> None:
        nonlocal seen
        seen += 1

    server = start_redis(tmp_path)
    pipe = RedisPipe(server.url, SCRIPTS, on_connect=on_connect)
    await pipe.start()
    server.kill()
    await asyncio.sleep(0.1)
    with pytest.raises(RedisDown):
        await pipe.call("PING")
    again = restart(server)
    try:
        await connected(pipe)
        assert await pipe.run("add", 1, "n", 1) == 1
        assert seen == 2
    finally:
        await pipe.close()
        again.kill()


async def test_a_frozen_server_counts_as_gone(tmp_path: Path) -> None:
    server = start_redis(tmp_path)
    pipe = RedisPipe(server.url, timeout=0.2)
    await pipe.start()
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(RedisDown):
            await asyncio.wait_for(pipe.call("PING"), 2)
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
        await pipe.close()
        server.kill()
