"""Lists against every job looked at one by one: each filter, for each kind of caller, page by page."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import update

from shared.jobs import Jobs, JobSettings, JobState
from shared.jobs.schemas import JobSummary
from shared.jobs.store import jobs as table
from shared.principal import Principal
from tests.integration.jobs.conftest import submit

KINDS = ("test.echo", "test.count", "test.busy")
SCOPES = ("sql", "vision", "sql")
"""Of the jobs of each kind: two kinds share a scope."""
STATES = (JobState.queued, JobState.failed, JobState.running)


@pytest.fixture
async def jobs(settings: JobSettings, principal: Principal) -> AsyncIterator[Jobs]:
    """A queue with three jobs of every kind in every state, and one of somebody else; nobody works."""
    queue = Jobs(settings)
    await queue.database.prepare()
    for _, (kind, scope), state in itertools.product(range(3), zip(KINDS, SCOPES, strict=True), STATES):
        job = await submit(queue, principal, "test.echo")
        async with queue.database.session() as session:
            values = {"kind": kind, "scope": scope, "state": state.value}
            await session.execute(update(table).where(table.c.id == job.id).values(**values))
    await submit(queue, Principal("key_2", "other", frozenset({"sql"})), "test.echo")
    yield queue
    await queue._transport.close()
    await queue.database.close()


async def all_pages(jobs: Jobs, caller: Principal, limit: int, **filters: object) -> list[JobSummary]:
    """Every job of a list, taken in pages of `limit`."""
    seen: list[JobSummary] = []
    cursor = None
    while True:
        page, cursor = await jobs.list(caller, cursor=cursor, limit=limit, **filters)  # type: ignore[arg-type]
        assert len(page) <= limit
        seen += page
        if cursor is None:
            return seen


@pytest.mark.parametrize("scopes", [("admin",), ("sql",), ("sql", "vision"), ("model",)])
async def test_lists_hold_what_the_filters_say(jobs: Jobs, scopes: tuple[str, ...]) -> None:
    everything = await all_pages(jobs, Principal("k", "acme", frozenset({"admin"})), 100)
    assert len(everything) == 27
    caller = Principal("key_1", "acme", frozenset(scopes))
    scope_of = dict(zip(KINDS, SCOPES, strict=True))
    amongs = (None, frozenset(KINDS[:2]), frozenset({"test.busy", "test.none"}))
    kind_filters: tuple[tuple[str, ...], ...] = ((), KINDS[:1], KINDS[1:], ("test.none",))
    state_filters = ((), STATES[:1], STATES[1:], (JobState.cancelled,))
    for among, kinds, states in itertools.product(amongs, kind_filters, state_filters):
        expected = [
            job.id
            for job in everything
            if ("admin" in scopes or scope_of[job.kind] in scopes)
            and (among is None or job.kind in among)
            and (not kinds or job.kind in kinds)
            and (not states or job.state in states)
        ]
        found = await all_pages(jobs, caller, 4, among=among, kinds=kinds, states=states)
        assert [job.id for job in found] == expected, (among, kinds, states)
