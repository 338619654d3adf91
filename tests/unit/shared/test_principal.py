"""Principal tokens: signing agrees with PyJWT, and every wrong token is refused."""

from __future__ import annotations

import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.principal import ISSUER, Principal, PrincipalSigner
from shared.problems import Unauthorized

SECRET = "a-secret-of-at-least-32-characters!"
SIGNER = PrincipalSigner(SECRET)
PRINCIPAL = Principal("key_1", "acme", frozenset({"model", "sql"}), "req_1", "budget_1")


def test_round_trip() -> None:
    assert SIGNER.verify(SIGNER.sign(PRINCIPAL, audience="model"), audience="model") == PRINCIPAL


@given(
    key=st.text(min_size=1, max_size=40),
    tenant=st.text(min_size=1, max_size=40),
    scopes=st.frozensets(st.text(min_size=1, max_size=12), max_size=5),
    budget=st.none() | st.text(min_size=1, max_size=30),
)
def test_our_signing_is_what_pyjwt_reads(
    key: str, tenant: str, scopes: frozenset[str], budget: str | None
) -> None:
    token = SIGNER.sign(Principal(key, tenant, scopes, "r", budget), audience="sql")
    claims = jwt.decode(token, SECRET, algorithms=["HS256"], audience="sql", issuer=ISSUER)
    assert (claims["sub"], claims["tenant"], claims["budget"]) == (key, tenant, budget)
    assert claims["scopes"] == sorted(scopes)


def _pyjwt(secret: str = SECRET, **changes: object) -> str:
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": "model",
        "iat": now,
        "exp": now + 60,
        "sub": "k",
        "tenant": "t",
        "scopes": [],
    }
    claims.update(changes)
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, secret, "HS256")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "not.a.token",
        _pyjwt(secret="another-secret-of-at-least-32-chars"),
        _pyjwt(exp=int(time.time()) - 10),
        _pyjwt(aud="sql"),
        _pyjwt(iss="someone else"),
        _pyjwt(tenant=None),
        _pyjwt(tenant=""),
        _pyjwt(scopes=None),
        _pyjwt(exp=None),
        _pyjwt(sub=None),
        jwt.encode({"sub": "k", "aud": "model"}, key="", algorithm="none"),
    ],
)
def test_wrong_tokens_are_refused(token: str) -> None:
    with pytest.raises(Unauthorized):
        SIGNER.verify(token, audience="model")


def test_every_flipped_character_of_the_payload_breaks_the_signature() -> None:
    token = SIGNER.sign(PRINCIPAL, audience="model")
    header, payload, signature = token.split(".")
    for index in range(0, len(payload), 7):
        other = "A" if payload[index] != "A" else "B"
        forged = f"{header}.{payload[:index]}{other}{payload[index + 1 :]}.{signature}"
        with pytest.raises(Unauthorized):
            SIGNER.verify(forged, audience="model")


def test_rotation_accepts_the_previous_secret_and_signs_with_the_new_one() -> None:
    rotated = PrincipalSigner("a-new-secret-of-at-least-32-characters", previous=SECRET)
    assert rotated.verify(SIGNER.sign(PRINCIPAL, audience="model"), audience="model") == PRINCIPAL
    with pytest.raises(Unauthorized):
        SIGNER.verify(rotated.sign(PRINCIPAL, audience="model"), audience="model")


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="32"):
        PrincipalSigner("short")


def test_admin_passes_every_scope() -> None:
    assert Principal("k", "t", frozenset({"admin"})).allows("vision")
    assert not Principal("k", "t", frozenset({"model"})).allows("vision")


@pytest.mark.parametrize("budget", [None, "b", "bu", "bud"])
def test_a_stamp_signs_what_the_signer_verifies(budget: str | None) -> None:
    principal = Principal("key_1", "acme", frozenset({"sql", "model"}), budget_id=budget)
    signer = PrincipalSigner(SECRET)
    stamp = signer.stamp(principal, audience="sql")
    for request_id in ("req_1", 'quote " and \\ back', "ü"):
        token = stamp.sign(request_id).decode()
        assert signer.verify(token, audience="sql") == principal.with_request(request_id)
        assert jwt.decode(token, SECRET, algorithms=["HS256"], audience="sql")["rid"] == request_id
    expired = stamp.sign("req_1", lifetime=-1).decode()
    with pytest.raises(Unauthorized):
        signer.verify(expired, audience="sql")
