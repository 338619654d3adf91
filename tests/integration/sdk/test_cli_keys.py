"""`lattice keys`, `lattice budgets` and `lattice usage` against a scripted server."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from starlette.responses import JSONResponse

from latticework.cli._session import CommandError
from latticework.cli.keys import end_of
from tests.integration.sdk.server import ScriptedServer
from tests.integration.sdk.test_cli import Lattice, lattice

__all__ = ["lattice"]


def key(**changes: Any) -> dict[str, Any]:
    return {
        "id": "key_1", "name": "ci", "tenant": "t", "tenant_class": "standard", "scopes": ["model"],
        "shown": "lw_abc", "requests_per_minute": None, "tokens_per_minute": None, "budget_id": None,
        "expires_at": None, "revoked_at": None, "created_at": "2026-01-01T00:00:00Z", **changes,
    }  # fmt: skip


def page(*data: dict[str, Any]) -> JSONResponse:
    return JSONResponse({"data": list(data), "next": None})


def test_secret_alone_goes_to_stdout(server: ScriptedServer, lattice: Lattice) -> None:
    server.answer("POST", "/v1/keys", JSONResponse(key(key="lw_secret"), status_code=201))
    result = lattice("keys", "create", "ci", "-s", "model", "-s", "sql", "--usd", "2.50", "--period", "day")
    assert (result.exit_code, result.stdout) == (0, "lw_secret\n")
    assert "not shown again" in result.stderr
    assert json.loads(server.bodies[0]) == {
        "name": "ci",
        "scopes": ["model", "sql"],
        "budget": {"usd": "2.50", "period": "day"},
    }
    assert json.loads(lattice("keys", "create", "ci", "-s", "model", "--json").stdout)["key"] == "lw_secret"
    assert lattice("keys", "create", "ci").exit_code == 2


def test_keys_are_listed_rotated_and_revoked(server: ScriptedServer, lattice: Lattice) -> None:
    old = key(id="key_0", expires_at="2020-01-01T00:00:00Z")
    gone = key(id="key_2", revoked_at="2026-01-02T00:00:00Z")
    server.answer("GET", "/v1/keys", page(gone, key(), old))
    lines = lattice("keys", "list").stdout.splitlines()
    assert [line.split()[4] for line in lines[1:]] == ["revoked", "active", "expired"]
    server.answer("POST", "/v1/keys/key_1/rotate", JSONResponse(key(key="lw_new")))
    assert lattice("keys", "rotate", "key_1", "--overlap", "60").stdout == "lw_new\n"
    assert json.loads(server.bodies[-1]) == {"overlap_seconds": 60}
    server.answer("DELETE", "/v1/keys/key_1", JSONResponse(key(revoked_at="2026-01-02T00:00:00Z")))
    assert lattice("keys", "revoke", "key_1").stdout == "key_1 (ci) is revoked.\n"


def test_budgets(server: ScriptedServer, lattice: Lattice) -> None:
    budget = {
        "id": "budget_1", "name": "team", "usd": "10", "tokens": None, "period": "month", "used_usd": "2.5",
        "used_tokens": 7, "reserved_usd": "0", "reserved_tokens": 0, "created_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    server.answer("POST", "/v1/budgets", JSONResponse(budget, status_code=201))
    server.answer("GET", "/v1/budgets", page(budget))
    assert lattice("budgets", "create", "team", "--usd", "10", "--period", "month").stdout == "budget_1\n"
    assert "2.5 of 10" in lattice("budgets", "list").stdout


def test_usage(server: ScriptedServer, lattice: Lattice) -> None:
    row = {
        "day": "2026-01-01", "model": "default", "requests": 3, "failures": 1, "prompt_tokens": 10,
        "completion_tokens": 20, "cached_tokens": 0, "cost_usd": "0.000050",
    }  # fmt: skip
    server.answer("GET", "/v1/usage", page(row))
    result = lattice("usage", "-b", "day", "-b", "model", "--days", "7")
    assert result.stdout.splitlines()[1].split() == [
        "2026-01-01",
        "default",
        "3",
        "1",
        "10",
        "20",
        "0.000050",
    ]
    assert server.requests[-1].query_params.getlist("group_by") == ["day", "model"]
    server.answer("GET", "/v1/usage", page())
    empty = lattice("usage")
    assert (empty.stdout, empty.stderr) == ("", "No usage.\n")


def test_life_of_a_key() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert end_of(None, now) is None
    assert end_of("30m", now) == datetime(2026, 1, 1, 12, 30, tzinfo=UTC)
    assert end_of("12h", now) == datetime(2026, 1, 2, tzinfo=UTC)
    assert end_of("90d", now) == datetime(2026, 4, 1, 12, tzinfo=UTC)
    assert end_of("2026-01-31", now) == datetime(2026, 2, 1, tzinfo=UTC)
    for wrong in ("0d", "5", "soon", "-1d", "2026-13-01"):
        with pytest.raises(CommandError):
            end_of(wrong, now)
