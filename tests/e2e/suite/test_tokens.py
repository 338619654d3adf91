"""No service takes a principal token that is forged, expired, another's or for another tenant."""

from __future__ import annotations

import json
import time

import httpx
import jwt
import psutil
import pytest

from shared.principal import ISSUER, Principal, PrincipalSigner
from tests.e2e.conftest import RunningSuite

SERVICES = {
    "model": "/v1/engines",
    "text2sql": "/v1/sql/databases",
    "vision": "/v1/vision/capabilities",
    "gateway": "/v1/usage",
}


class Inner:
    """A service of the running suite, reached past the gateway."""

    def __init__(self, suite: RunningSuite, name: str) -> None:
        pids = json.loads((suite.home / "local.json").read_text())["pids"]
        environment = psutil.Process(pids[name]).environ()
        self.name = name
        self.secret = environment["LATTICEWORK_PRINCIPAL_SECRET"]
        self.url = f"http://127.0.0.1:{environment['LATTICEWORK_PORT']}{SERVICES[name]}"
        self.key_id = "key_of_nobody"

    def status(self, token: str, **headers: str) -> int:
        authorization = {"Authorization": f"Bearer {token}", **headers}
        return httpx.get(self.url, headers=authorization, trust_env=False, timeout=30).status_code

    def claims(self, **changes: object) -> dict[str, object]:
        now = int(time.time())
        return {
            "iss": ISSUER,
            "aud": self.name,
            "iat": now,
            "exp": now + 60,
            "sub": self.key_id,
            "tenant": "acme",
            "scopes": ["admin"],
            **changes,
        }


@pytest.fixture(params=sorted(SERVICES))
def inner(request: pytest.FixtureRequest, suite: RunningSuite) -> Inner:
    return Inner(suite, request.param)


def test_a_right_token_is_taken(inner: Inner) -> None:
    if inner.name == "gateway":
        pytest.skip("the gateway also checks that the key exists; see the next test")
    token = PrincipalSigner(inner.secret).sign(
        Principal("key_x", "acme", frozenset({"admin"})), audience=inner.name
    )
    assert inner.status(token) == 200


def test_the_gateway_takes_no_token_of_an_unknown_key(suite: RunningSuite) -> None:
    gateway = Inner(suite, "gateway")
    token = jwt.encode(gateway.claims(), gateway.secret, "HS256")
    assert gateway.status(token) == 401


def test_forged(inner: Inner) -> None:
    assert inner.status(jwt.encode(inner.claims(), "x" * 40, "HS256")) == 401
    assert inner.status(jwt.encode(inner.claims(), "", "none")) == 401
    header, _, signature = jwt.encode(inner.claims(), inner.secret, "HS256").split(".")
    payload = jwt.encode(inner.claims(tenant="rival"), "y" * 40, "HS256").split(".")[1]
    assert inner.status(f"{header}.{payload}.{signature}") == 401


def test_expired(inner: Inner) -> None:
    assert inner.status(jwt.encode(inner.claims(exp=int(time.time()) - 5), inner.secret, "HS256")) == 401


def test_for_another_audience(inner: Inner) -> None:
    other = "vision" if inner.name != "vision" else "model"
    assert inner.status(jwt.encode(inner.claims(aud=other), inner.secret, "HS256")) == 401


def test_replayed_to_another_tenant(inner: Inner) -> None:
    token = jwt.encode(inner.claims(), inner.secret, "HS256")
    assert inner.status(token, **{"Lattice-Tenant": "rival"}) in (401, 403)


def test_a_users_key_is_no_principal_token(inner: Inner, suite: RunningSuite) -> None:
    if inner.name == "gateway":
        pytest.skip("the gateway is where keys are taken")
    assert inner.status(suite.key) == 401
