"""Following a job's events: the database holds them, Redis says when to look.

A reader asks for what comes after the last sequence number it has, so it misses nothing and sees
nothing twice, however often it comes back and whatever happens to Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

from shared.jobs import queries
from shared.jobs.schemas import FINAL_EVENTS, JobEvent
from shared.jobs.store import JobDatabase
from shared.jobs.transport import QUEUE_DOWN, Transport

LISTENING_POLL_SECONDS = 3.0
DEAF_POLL_SECONDS = 0.5


class EventHub:
    """One subscription of this process, shared by everybody who follows a job."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._followers: dict[str, set[asyncio.Event]] = {}
        self._listening = False

    async def run(self) -> None:
        """Listen until cancelled; while Redis is away followers look by themselves more often."""
        while True:
            try:
                async with self._transport.listen("news") as told:
                    self._listening = True
                    self._wake_all()
                    async for job_id in told:
                        for follower in self._followers.get(job_id, ()):
                            follower.set()
            except QUEUE_DOWN:
                self._listening = False
                await asyncio.sleep(1.0)

    def _wake_all(self) -> None:
        for followers in self._followers.values():
            for follower in followers:
                follower.set()

    @contextlib.contextmanager
    def following(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when the job has news."""
        event = asyncio.Event()
        self._followers.setdefault(job_id, set()).add(event)
        try:
            yield event
        finally:
            self._followers[job_id].discard(event)
            if not self._followers[job_id]:
                del self._followers[job_id]

    @property
    def poll_seconds(self) -> float:
        """How long a follower may sleep without looking."""
        return LISTENING_POLL_SECONDS if self._listening else DEAF_POLL_SECONDS


async def follow(
    database: JobDatabase,
    hub: EventHub,
    job_id: str,
    after: int,
    *,
    quiet_seconds: float | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> AsyncIterator[JobEvent | None]:
    """The events of a job after sequence number `after`, until the one that ends it.

    With `quiet_seconds` a None is given whenever nothing has happened for that long. Ends early when
    `enough()` says so, or when the job has been deleted.
    """
    loop = asyncio.get_running_loop()
    quiet_since = loop.time()
    with hub.following(job_id) as news:
        while not enough():
            news.clear()
            found = await queries.events_after(database, job_id, after)
            for event in found:
                after = event.sequence
                quiet_since = loop.time()
                yield event
            if found and len(found) == queries.EVENTS_AT_ONCE:
                continue
            if found and found[-1].type in FINAL_EVENTS:
                return
            if not found and await _is_over(database, job_id):
                return
            if quiet_seconds is not None and loop.time() - quiet_since >= quiet_seconds:
                quiet_since = loop.time()
                yield None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), hub.poll_seconds)


async def _is_over(database: JobDatabase, job_id: str) -> bool:
    state = await queries.state_of(database, job_id)
    return state is None or state.is_final
