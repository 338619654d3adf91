"""What Redis carries: which jobs wait in a pool, and who should wake up.

Nothing here is the only copy of anything. One sorted set per pool holds the ids of announced jobs,
lowest score first; adding one twice changes nothing, so a job may be announced as often as one likes.
Two channels wake listeners: one says that a job has news, the other that somebody wants it stopped.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

import redis.asyncio as redis
from redis.exceptions import RedisError

RANK_WEIGHT = 1e13
"""More than the milliseconds since 1970, so that rank always decides before age; exact in a double."""

CONNECT_SECONDS = 2.0
COMMAND_SECONDS = 5.0

QUEUE_DOWN = (RedisError, OSError, TimeoutError)
"""What an operation raises while Redis is away; callers go on with the database alone."""


@dataclass(frozen=True, slots=True)
class Announcement:
    """A job that may start."""

    job_id: str
    pool: str
    rank: int
    created_at: datetime

    @property
    def score(self) -> float:
        """Its place in the queue: higher priority first, then older first.

        Age counts from the submit: a job that lost its worker goes back to the head, not to the tail.
        """
        return self.rank * RANK_WEIGHT + int(self.created_at.timestamp() * 1000)


class Transport:
    """The queue's keys in Redis. Without a URL every operation behaves as if Redis were down."""

    def __init__(self, url: str | None, namespace: str) -> None:
        self._redis = (
            redis.Redis.from_url(
                url,
                decode_responses=True,
                socket_connect_timeout=CONNECT_SECONDS,
                socket_timeout=COMMAND_SECONDS,
                protocol=2,
            )
            if url
            else None
        )
        self._prefix = f"{namespace}:jobs"

    @property
    def _client(self) -> redis.Redis:
        if self._redis is None:
            raise ConnectionError("no Redis is configured")
        return self._redis

    def _queue(self, pool: str) -> str:
        return f"{self._prefix}:queue:{pool}"

    async def announce(self, waiting: Sequence[Announcement]) -> None:
        """Put jobs into the queues of their pools."""
        if not waiting:
            return
        pools: dict[str, dict[str, float]] = {}
        for item in waiting:
            pools.setdefault(item.pool, {})[item.job_id] = item.score
        async with self._client.pipeline(transaction=False) as pipeline:
            for pool, members in pools.items():
                pipeline.zadd(self._queue(pool), members)
            await pipeline.execute()

    async def take(self, pools: Sequence[str], count: int, wait_seconds: float) -> list[str]:
        """Up to `count` jobs, the first pool that has any; waits for the first one."""
        found = await self._client.bzpopmin([self._queue(pool) for pool in pools], timeout=wait_seconds)
        if not found:
            return []
        queue, first, _score = found
        taken = [str(first)]
        if count > 1:
            more: list[tuple[str, float]] = await self._client.zpopmin(str(queue), count - 1)  # type: ignore[assignment]
            taken += [member for member, _score in more]
        return taken

    async def forget(self, job_id: str, pool: str) -> None:
        """Take a job out of its queue, as when it was cancelled."""
        await self._client.zrem(self._queue(pool), job_id)

    async def missing(self, waiting: Sequence[Announcement]) -> list[Announcement]:
        """Those of `waiting` that are not in their queue."""
        if not waiting:
            return []
        async with self._client.pipeline(transaction=False) as pipeline:
            for item in waiting:
                pipeline.zscore(self._queue(item.pool), item.job_id)
            scores = await pipeline.execute()
        return [item for item, score in zip(waiting, scores, strict=True) if score is None]

    async def epoch(self) -> str:
        """A word that changes when Redis was restarted or lost its data.

        A restart counts because the last second before a crash may be missing from its file.
        """
        key = f"{self._prefix}:epoch"
        await self._client.set(key, uuid4().hex, nx=True)
        server = await self._client.info("server")
        return f"{await self._client.get(key)!s}:{server['run_id']}"

    async def tell_news(self, job_id: str) -> None:
        """Wake whoever follows this job's events."""
        await self._client.publish(f"{self._prefix}:news", job_id)

    async def tell_stop(self, job_id: str) -> None:
        """Wake the worker that runs this job: somebody wants it stopped."""
        await self._client.publish(f"{self._prefix}:stop", job_id)

    @asynccontextmanager
    async def listen(self, channel: str) -> AsyncIterator[AsyncIterator[str]]:
        """The job ids told on `channel` ("news" or "stop") from now on; raises when Redis goes."""
        async with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(f"{self._prefix}:{channel}")

            async def ids() -> AsyncIterator[str]:
                while True:
                    message = await pubsub.get_message(timeout=COMMAND_SECONDS)
                    if message is not None and message["type"] == "message":
                        yield str(message["data"])

            yield ids()

    async def ping(self) -> str | None:
        """Readiness: None when Redis answers, else why not."""
        try:
            await self._client.ping()
        except QUEUE_DOWN as error:
            return f"the queue's Redis does not answer ({type(error).__name__})"
        return None

    async def close(self) -> None:
        """Close every connection."""
        if self._redis is not None:
            await self._redis.aclose()
