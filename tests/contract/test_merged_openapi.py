"""schemathesis over the merged description of the suite: no 500, no undocumented status, bodies as described.

The whole suite is started for it. `LATTICEWORK_CONTRACT_URL` and `LATTICEWORK_CONTRACT_KEY` point the
same tests at one that runs already, `LATTICEWORK_CONTRACT_EXAMPLES` says how often to ask each operation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.core.failures import Failure, FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.contract.inhabited import Inhabited, affordable, inhabit
from tests.e2e.conftest import start_suite, stop_suite

EXAMPLES = int(os.environ.get("LATTICEWORK_CONTRACT_EXAMPLES", "12"))
MANY_EXAMPLES = 10 * EXAMPLES
ASK_SECONDS = 120
#: What has a longer head is no HTTP to the server, which says so before any path is looked at.
LONGEST_ADDRESS = 32 << 10
#: Operations that take away what others need come last.
LAST = ("DELETE",)


def never_500(ctx: Any, response: Any, case: Any) -> None:
    """No answer is a 500. Other server errors (a model that is not there) count where they are described."""
    assert response.status_code != 500, f"[500] {response.text[:1000]}"


CHECKS = [
    never_500,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@dataclass(frozen=True)
class Target:
    url: str
    key: str


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Where to ask: a running suite if one is named, else one of our own."""
    url = os.environ.get("LATTICEWORK_CONTRACT_URL")
    if url is not None:
        yield Target(url, os.environ["LATTICEWORK_CONTRACT_KEY"])
        return
    suite = start_suite(tmp_path_factory.mktemp("suite"))
    yield Target(suite.url, suite.key)
    stop_suite(suite)


@pytest.fixture(scope="module")
def schema(target: Target) -> schemathesis.BaseSchema:
    """The merged description, as the gateway gives it to anybody."""
    return schemathesis.openapi.from_url(f"{target.url}/openapi.json")


@pytest.fixture(scope="module")
def inhabited(target: Target) -> Inhabited:
    """What is in the suite."""
    headers = {"Authorization": f"Bearer {target.key}"}
    with httpx.Client(base_url=target.url, headers=headers, timeout=ASK_SECONDS, trust_env=False) as client:
        return inhabit(client)


def operations(schema: schemathesis.BaseSchema) -> list[Any]:
    """Every operation, those that remove something at the end."""
    found = []
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result.err()
        found.append(result.ok())
    assert len(found) >= 50, "the description has lost its operations"
    return sorted(found, key=lambda operation: operation.method.upper() in LAST)


def ask_everything(
    schema: schemathesis.BaseSchema, examples: int, number: int, ask: Callable[[Any, bool], None]
) -> list[str]:
    """Ask every operation with generated cases; what went wrong, by operation.

    `ask` gets a case, and whether its names shall lead to things that exist.
    """
    wrong: list[str] = []
    for operation in operations(schema):
        right = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        wrong_ones = operation.as_strategy(generation_mode=GenerationMode.NEGATIVE)

        @seed(number)
        @given(case=right | right | wrong_ones, leading=st.booleans())
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def run(case: Any, leading: bool) -> None:
            ask(case, leading)

        try:
            run()
        except (AssertionError, FailureGroup, Failure) as error:
            wrong.append(f"{operation.label}: {error}")
    return wrong


def every_answer_is_as_described(
    schema: schemathesis.BaseSchema, target: Target, inhabited: Inhabited, examples: int, number: int
) -> None:
    headers = {"Authorization": f"Bearer {target.key}"}

    def ask(case: Any, leading: bool) -> None:
        if leading:
            case.path_parameters = inhabited.lead(case.path_parameters)
            case.body = inhabited.fill(case.body)
        case.body = affordable(case.body)
        if address_length(case) <= LONGEST_ADDRESS:
            case.call_and_validate(headers=headers, checks=CHECKS, timeout=ASK_SECONDS)

    wrong = ask_everything(schema, examples, number, ask)
    assert not wrong, "\n\n".join(wrong)


def address_length(case: Any) -> int:
    """Bytes of the address of a case, as it is sent."""
    sent = case.as_transport_kwargs()
    address = requests.Request(sent["method"], sent["url"], params=sent.get("params")).prepare().url
    return len(address or "")


@pytest.mark.timeout(600)
def test_every_answer_is_as_described(
    schema: schemathesis.BaseSchema, target: Target, inhabited: Inhabited
) -> None:
    every_answer_is_as_described(schema, target, inhabited, EXAMPLES, 1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_answer_is_as_described_however_often_one_asks(
    schema: schemathesis.BaseSchema, target: Target, inhabited: Inhabited
) -> None:
    every_answer_is_as_described(schema, target, inhabited, MANY_EXAMPLES, 2)


def test_what_can_be_missing_is_described_as_such(schema: schemathesis.BaseSchema) -> None:
    silent = [
        operation.label
        for operation in operations(schema)
        if "{" in operation.path and "404" not in operation.definition.raw["responses"]
    ]
    assert silent == []


@pytest.mark.timeout(600)
def test_nothing_is_done_for_strangers(schema: schemathesis.BaseSchema) -> None:
    def ask(case: Any, _leading: bool) -> None:
        if case.path not in ("/healthz", "/readyz"):
            answer = case.call(headers={"Authorization": "Bearer lw_nobody"}, timeout=ASK_SECONDS)
            assert answer.status_code == 401, answer.status_code

    wrong = ask_everything(schema, 1, 1, ask)
    assert not wrong, "\n\n".join(wrong)
