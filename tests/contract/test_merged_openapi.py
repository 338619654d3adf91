"""schemathesis over the merged description: no 500, no undocumented status, every body as described.

By default the gateway alone is asked, on a real port. `LATTICEWORK_CONTRACT_URL` and
`LATTICEWORK_CONTRACT_KEY` point the same test at a running suite with all its services.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from deploy.redis_server import RedisServer
from tests.integration.gateway.live import gateway

EXAMPLES = int(os.environ.get("LATTICEWORK_CONTRACT_EXAMPLES", "12"))
# The gateway's thread draws random numbers while Hypothesis looks on.
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@dataclass(frozen=True)
class Target:
    url: str
    key: str


@pytest.fixture(scope="module")
def target(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Where to ask: a running suite if one is named, else a gateway in a thread of its own."""
    url = os.environ.get("LATTICEWORK_CONTRACT_URL")
    if url is not None:
        yield Target(url, os.environ["LATTICEWORK_CONTRACT_KEY"])
        return
    started: list[Target] = []
    ready = threading.Event()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        home = tmp_path_factory.mktemp("gateway")
        async with gateway(redis_server.url, home, {}) as live:
            started.append(Target(live.url, live.admin))
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            ready.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    ready.wait(60)
    assert started, "the gateway did not start"
    yield started[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(30)
    loop.close()


@pytest.fixture(scope="module")
def schema(target: Target) -> schemathesis.BaseSchema:
    """The merged description, as the gateway gives it to anybody."""
    return schemathesis.openapi.from_url(f"{target.url}/openapi.json")


def ask_everything(schema: schemathesis.BaseSchema, examples: int, ask: Callable[[Any], None]) -> list[str]:
    """Ask every operation with generated cases; what went wrong, by operation."""
    wrong: list[str] = []
    asked = 0
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result.err()
        operation = result.ok()

        right = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        wrong_ones = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @given(case=right | wrong_ones)
        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def run(case: Any) -> None:
            ask(case)

        try:
            run()
        except (AssertionError, FailureGroup, Failure) as error:
            wrong.append(f"{operation.label}: {error}")
        asked += 1
    assert asked >= 10, "the description has lost its operations"
    return wrong


@pytest.mark.timeout(600)
def test_every_answer_is_as_described(schema: schemathesis.BaseSchema, target: Target) -> None:
    headers = {"Authorization": f"Bearer {target.key}"}

    def ask(case: Any) -> None:
        case.call_and_validate(headers=headers, checks=CHECKS, timeout=60)

    assert ask_everything(schema, EXAMPLES, ask) == []


@pytest.mark.timeout(600)
def test_nothing_is_done_for_strangers(schema: schemathesis.BaseSchema) -> None:
    def ask(case: Any) -> None:
        if case.path not in ("/healthz", "/readyz"):
            answer = case.call(headers={"Authorization": "Bearer lw_nobody"}, timeout=60)
            assert answer.status_code == 401, answer.status_code

    assert ask_everything(schema, 1, ask) == []
