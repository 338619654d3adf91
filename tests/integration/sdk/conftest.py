"""Both clients against one small real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from latticework import AsyncClient, Client, RetryPolicy, Timeouts
from tests.integration.sdk.server import ScriptedServer, serving

KEY = "lw_test_0123456789"
QUICK = RetryPolicy(max_retries=2, first_delay=0.01, max_delay=0.02)
SHORT = Timeouts(connect=2, read=5, write=5, pool=5)


@pytest.fixture(scope="session")
def running_server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    with serving(scripted) as url:
        scripted.url = url
        yield scripted


@pytest.fixture
def server(running_server: ScriptedServer) -> ScriptedServer:
    running_server.reset()
    return running_server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with Client(server.url, KEY, retries=QUICK, timeouts=SHORT) as made:
        yield made


@pytest.fixture
async def async_client(server: ScriptedServer) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.url, KEY, retries=QUICK, timeouts=SHORT) as made:
        yield made
