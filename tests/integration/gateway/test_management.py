"""Keys, budgets, usage and prices over HTTP: rules, tenants, pages, idempotency, first key."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway import bootstrap
from gateway.__main__ import main
from shared.database import utc_now
from shared.principal import Principal, PrincipalSigner
from shared.upstream import UpstreamDied
from tests.conftest import SECRET
from tests.integration.gateway.live import (
    BODY,
    CHAT,
    SSE,
    Live,
    answers,
    chunk,
    event,
    gateway,
)
from tests.unit.upstream.servers import Call, serving


async def make(live: Live, **fields: Any) -> dict[str, Any]:
    answer = await live.call("POST", "/v1/keys", body={"name": "k", "scopes": ["model"], **fields})
    assert answer.status == 201, answer.json
    made: dict[str, Any] = answer.json
    assert answer.headers["location"] == f"/v1/keys/{made['id']}"
    return made


async def test_a_key_from_birth_to_death(redis_url: str, tmp_path: Path) -> None:
    async with serving(answers()) as server, gateway(redis_url, tmp_path, {"model": server.url}) as live:
        made = await make(live, budget={"usd": "5.5", "tokens": 1000, "period": "month"})
        secret = made.pop("key")
        assert secret.startswith(made["shown"])
        assert (await live.chat(secret)).status == 200
        shown = (await live.call("GET", f"/v1/keys/{made['id']}")).json
        assert shown == made
        assert secret not in json.dumps((await live.call("GET", "/v1/keys")).json)
        database = (tmp_path / "gateway.db").read_bytes() + (tmp_path / "gateway.db-wal").read_bytes()
        assert secret.encode() not in database
        # Its owner may look at it and its budget, not at others.
        assert (await live.call("GET", f"/v1/keys/{made['id']}", key=secret)).status == 200
        budget = await live.call("GET", f"/v1/budgets/{made['budget_id']}", key=secret)
        assert (budget.json["usd"], budget.json["tokens"], budget.json["used_tokens"]) == ("5.50", 1000, 10)
        other = await make(live)
        for path in (f"/v1/keys/{other['id']}", "/v1/budgets/budget_x"):
            assert (await live.call("GET", path, key=secret)).status == 404
        for method, path in (("GET", "/v1/keys"), ("POST", "/v1/keys"), ("GET", "/v1/budgets")):
            assert (await live.call(method, path, key=secret, body={})).status == 403
        # Rotation: the old secret stays for the overlap, then only the new one opens.
        rotated = await live.call("POST", f"/v1/keys/{made['id']}/rotate", body={"overlap_seconds": 1})
        fresh = rotated.json["key"]
        assert rotated.json["id"] == made["id"]
        assert [(await live.chat(key)).status for key in (secret, fresh)] == [200, 200]
        await asyncio.sleep(1.1)
        assert [(await live.chat(key)).status for key in (secret, fresh)] == [401, 200]
        again = (await live.call("POST", f"/v1/keys/{made['id']}/rotate")).json["key"]
        assert [(await live.chat(key)).status for key in (fresh, again)] == [401, 200]
        revoked = await live.call("DELETE", f"/v1/keys/{made['id']}")
        assert revoked.json["revoked_at"] is not None
        refused = await live.chat(again)
        assert (refused.status, refused.json["error"]["code"]) == (401, "key_revoked")
        assert (await live.call("DELETE", f"/v1/keys/{made['id']}")).status == 200
        conflict = await live.call("POST", f"/v1/keys/{made['id']}/rotate")
        assert (conflict.status, conflict.json["code"]) == (409, "key_revoked")


async def test_a_revoked_key_stops_within_a_second_everywhere(redis_url: str, tmp_path: Path) -> None:
    """In this process, in another one, and in streams that are running."""

    async def endless(call: Call) -> None:
        await call.body()
        if b"lattice" in call.head:
            return
        await call.send(SSE)
        while True:
            await call.send(chunk(event()))
            await asyncio.sleep(0.02)

    async with (
        serving(endless) as server,
        gateway(redis_url, tmp_path, {"model": server.url}) as one,
        gateway(redis_url, tmp_path, {"model": server.url}) as two,
    ):
        made = await make(one)
        secret = made["key"]
        stream = await two.open("POST", CHAT, key=secret, body={**BODY, "stream": True})
        assert stream.status == 200
        await stream.read()
        await one.call("DELETE", f"/v1/keys/{made['id']}")
        loop = asyncio.get_running_loop()
        revoked_at = loop.time()
        for live in (one, two):
            assert (await live.chat(secret)).status == 401
        received = b""

        async def rest() -> None:
            nonlocal received
            while piece := await stream.read():
                received += piece

        with pytest.raises(UpstreamDied):
            await asyncio.wait_for(rest(), 5)
        assert loop.time() - revoked_at < 1
        assert b"key_revoked" in received


async def test_expiry(redis_url: str, tmp_path: Path) -> None:
    async with serving(answers()) as server, gateway(redis_url, tmp_path, {"model": server.url}) as live:
        soon = (utc_now() + timedelta(seconds=1)).isoformat()
        made = await make(live, expires_at=soon)
        assert (await live.chat(made["key"])).status == 200
        await asyncio.sleep(1.1)
        refused = await live.chat(made["key"])
        assert (refused.status, refused.json["error"]["code"]) == (401, "key_expired")
        past = (utc_now() - timedelta(seconds=1)).isoformat()
        body = {"name": "k", "scopes": ["model"], "expires_at": past}
        assert (await live.call("POST", "/v1/keys", body=body)).status == 422


async def test_budgets_are_shared_and_changed_while_they_run(redis_url: str, tmp_path: Path) -> None:
    prices = {"default": {"prompt": "0", "completion": "100000"}}
    async with (
        serving(answers()) as server,
        gateway(redis_url, tmp_path, {"model": server.url}, prices=prices) as live,
    ):
        budget = await live.call("POST", "/v1/budgets", body={"name": "team", "usd": "1.00"})
        assert budget.status == 201
        path = f"/v1/budgets/{budget.json['id']}"
        keys = [(await make(live, budget_id=budget.json["id"]))["key"] for _ in range(2)]
        # Each call reserves 10 tokens at 0.1 dollars and uses 3.
        assert [(await live.chat(key)).status for key in keys] == [200, 402]
        shown = (await live.call("GET", path)).json
        assert (shown["used_usd"], shown["reserved_usd"], shown["used_tokens"]) == ("0.30", "0.00", 10)
        changed = await live.call("PATCH", path, body={"usd": "1.30"})
        assert (changed.status, changed.json["usd"], changed.json["name"]) == (200, "1.30", "team")
        assert (await live.chat(keys[1])).status == 200
        assert (await live.call("PATCH", path, body={"usd": None})).json["usd"] is None
        assert (await live.chat(keys[1])).status == 200
        listed = (await live.call("GET", "/v1/budgets")).json
        assert [row["used_usd"] for row in listed["data"]] == ["0.90"]
        missing = await live.call("PATCH", "/v1/budgets/budget_x", body={"usd": "1"})
        assert missing.status == 404
        body = {"name": "k", "scopes": ["model"], "budget_id": "budget_x"}
        assert (await live.call("POST", "/v1/keys", body=body)).status == 404


async def test_tenants_do_not_see_each_other(redis_url: str, tmp_path: Path) -> None:
    async with serving(answers()) as server, gateway(redis_url, tmp_path, {"model": server.url}) as live:
        theirs = await live.new_key(tenant="other", scopes=("admin",), budget={"usd": "1"})
        await live.chat(theirs)
        mine = await make(live, budget={"usd": "1"})
        listed = (await live.call("GET", "/v1/keys", key=theirs)).json["data"]
        assert {key["tenant"] for key in listed} == {"other"}
        for method, path in (
            ("GET", f"/v1/keys/{mine['id']}"),
            ("DELETE", f"/v1/keys/{mine['id']}"),
            ("POST", f"/v1/keys/{mine['id']}/rotate"),
            ("GET", f"/v1/budgets/{mine['budget_id']}"),
            ("PATCH", f"/v1/budgets/{mine['budget_id']}"),
        ):
            assert (await live.call(method, path, key=theirs, body={})).status == 404
        await live.usage()
        assert (await live.call("GET", "/v1/usage")).json["data"] != []
        rows = (await live.call("GET", "/v1/usage?service=model")).json["data"]
        assert rows == [], "their call is not ours to see"
        body = {"name": "k", "scopes": ["model"], "budget_id": mine["budget_id"]}
        assert (await live.call("POST", "/v1/keys", key=theirs, body=body)).status == 404


async def test_usage_by_every_dimension(redis_url: str, tmp_path: Path) -> None:
    async with (
        serving(answers()) as server,
        gateway(redis_url, tmp_path, {"model": server.url, "vision": server.url}) as live,
    ):
        keys = [await make(live, name=f"k{index}", scopes=["model", "vision"]) for index in range(2)]
        for key in keys:
            await live.chat(key["key"])
            await live.chat(key["key"], model="other")
        await live.call("GET", "/v1/vision/x", key=keys[0]["key"])
        await live.usage()
        path = "/v1/usage?group_by=model&service=model"
        rows = (await live.call("GET", path)).json["data"]
        assert [(row["model"], row["requests"], row["cost_usd"]) for row in rows] == [
            ("default", 2, "0.000026"),
            ("other", 2, "0.000026"),
        ]
        assert rows[0]["key_id"] is None
        own = (await live.call("GET", "/v1/usage?group_by=service", key=keys[0]["key"])).json["data"]
        counts = {row["service"]: row["requests"] for row in own}
        assert (counts["model"], counts["vision"]) == (2, 1)
        first = (await live.call("GET", "/v1/usage?group_by=key&group_by=model&service=model&limit=3")).json
        assert len(first["data"]) == 3
        cursor = f"/v1/usage?group_by=key&group_by=model&service=model&limit=3&cursor={first['next']}"
        second = (await live.call("GET", cursor)).json
        assert (len(second["data"]), second["next"]) == (1, None)
        assert (await live.call("GET", "/v1/usage?cursor=%21%21")).status == 400
        assert (await live.call("GET", "/v1/usage?group_by=colour")).status == 422
        days = (await live.call("GET", "/v1/usage?group_by=day&first=2020-01-01")).json["data"]
        assert [row["day"] for row in days] == [utc_now().date().isoformat()]
        assert (await live.call("GET", "/v1/usage?last=2020-01-01")).json["data"] == []
        prices = (await live.call("GET", "/v1/prices", key=keys[0]["key"])).json["data"]
        assert prices[0]["model"] is None


async def test_pages_and_idempotency(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path, {}) as live:
        for index in range(5):
            await make(live, name=f"k{index}")
        names: list[str] = []
        cursor = ""
        while True:
            page = (await live.call("GET", f"/v1/keys?limit=2{cursor}")).json
            names += [key["name"] for key in page["data"]]
            if page["next"] is None:
                break
            cursor = f"&cursor={page['next']}"
        assert names == ["k4", "k3", "k2", "k1", "k0", "admin"]
        body = {"name": "once", "scopes": ["model"]}
        headers = {"idempotency-key": "abc"}
        made = [await live.call("POST", "/v1/keys", body=body, headers=headers) for _ in range(2)]
        assert made[0].json == made[1].json
        other = await live.call("POST", "/v1/keys", body={**body, "name": "x"}, headers=headers)
        assert (other.status, other.json["code"]) == (409, "idempotency_conflict")
        database = (tmp_path / "gateway.db").read_bytes() + (tmp_path / "gateway.db-wal").read_bytes()
        assert made[0].json["key"].encode() not in database, "a remembered answer keeps its secret sealed"


async def test_wrong_input_is_said_field_by_field(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path, {}) as live:
        for body, where in (
            ({"scopes": ["model"]}, "body.name"),
            ({"name": "k", "scopes": []}, "body.scopes"),
            ({"name": "k", "scopes": ["root"]}, "body.scopes.0"),
            ({"name": "k", "scopes": ["model"], "colour": 1}, "body.colour"),
            ({"name": "k", "scopes": ["model"], "budget": {"usd": "-1"}}, "body.budget.usd"),
            ({"name": "k", "scopes": ["model"], "budget": {"usd": "NaN"}}, "body.budget.usd"),
            ({"name": "k", "scopes": ["model"], "requests_per_minute": 0}, "body.requests_per_minute"),
            ({"name": "k", "scopes": ["model"], "tenant_class": "A B"}, "body.tenant_class"),
            ({"name": "\x00", "scopes": ["model"]}, "body.name"),
        ):
            answer = await live.call("POST", "/v1/keys", body=body)
            assert answer.status == 422, body
            assert answer.json["errors"][0]["location"].startswith(where)
            assert answer.json["request_id"].startswith("req_")
        both = {"name": "k", "scopes": ["model"], "budget": {}, "budget_id": "budget_1"}
        assert (await live.call("POST", "/v1/keys", body=both)).status == 422


async def test_principal_tokens_on_management_paths(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path, {}) as live:
        made = await make(live)
        signer = PrincipalSigner(SECRET)

        def token(**changes: Any) -> str:
            values = {"key_id": made["id"], "tenant": "acme", "scopes": frozenset({"admin"})} | changes
            return signer.sign(Principal(**values), audience=values.pop("audience", "gateway"))

        # The token claims more than the key has; the key decides.
        assert (await live.call("GET", "/v1/keys", key=token())).status == 403
        assert (await live.call("GET", f"/v1/keys/{made['id']}", key=token())).status == 200
        assert (await live.call("GET", "/v1/prices", key=token(tenant="other"))).status == 401
        wrong = signer.sign(Principal(made["id"], "acme", frozenset()), audience="vision")
        assert (await live.call("GET", "/v1/prices", key=wrong)).status == 401
        expired = signer.sign(Principal(made["id"], "acme", frozenset()), audience="gateway", lifetime=1)
        await asyncio.sleep(2.1)
        assert (await live.call("GET", "/v1/prices", key=expired)).status == 401
        await live.call("DELETE", f"/v1/keys/{made['id']}")
        assert (await live.call("GET", "/v1/prices", key=token())).status == 401


def configured(monkeypatch: pytest.MonkeyPatch, folder: Path, values: dict[str, str]) -> None:
    for name in list(os.environ):
        if name.startswith("LATTICEWORK_"):
            monkeypatch.delenv(name)
    for name, value in (values | {"HOME": str(folder)}).items():
        monkeypatch.setenv(f"LATTICEWORK_{name}", value)
    monkeypatch.chdir(folder)


def test_the_first_key_is_minted_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    configured(monkeypatch, tmp_path, {"PRINCIPAL_SECRET": SECRET})
    keep = tmp_path / "development.key"
    monkeypatch.setattr("sys.argv", ["bootstrap", "--keep", str(keep)])

    def mint() -> dict[str, str]:
        bootstrap.main()
        minted: dict[str, str] = json.loads(capsys.readouterr().out)
        return minted

    minted = mint()
    assert minted["key"].startswith("lw_")
    assert stat.S_IMODE(keep.stat().st_mode) == 0o600
    assert mint() == minted
    (tmp_path / "gateway.db").unlink()
    assert mint()["key"] != minted["key"], "another database does not know the kept key"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "LATTICEWORK_PRINCIPAL_SECRET is not set."),
        ({"PRINCIPAL_SECRET": "short"}, "at least 32 characters"),
        ({"PRINCIPAL_SECRET": SECRET}, "LATTICEWORK_REDIS_URL is not set"),
        (
            {"PRINCIPAL_SECRET": SECRET, "REDIS_URL": "http://x"},
            "LATTICEWORK_REDIS_URL must begin with redis://",
        ),
        (
            {
                "PRINCIPAL_SECRET": SECRET,
                "REDIS_URL": "redis://x",
                "GATEWAY_UPSTREAMS": '{"cake": "http://x"}',
            },
            "LATTICEWORK_GATEWAY_UPSTREAMS names 'cake'",
        ),
        (
            {
                "PRINCIPAL_SECRET": SECRET,
                "REDIS_URL": "redis://x",
                "GATEWAY_PRICES_FILE": "/nowhere.json",
            },
            "LATTICEWORK_GATEWAY_PRICES_FILE (/nowhere.json) cannot be read",
        ),
    ],
)
def test_configuration_errors_are_one_sentence_at_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    values: dict[str, str],
    sentence: str,
) -> None:
    configured(monkeypatch, tmp_path, values)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1, said
