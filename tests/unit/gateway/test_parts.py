"""Prices, routes, keys, estimates, requests ids, merging: the parts without a network."""

from __future__ import annotations

import asyncio
import re
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ulid import ULID

from gateway.keys import Key, KeyCache, looks_like_key, new_secret, period_at, period_start
from gateway.limits.calls import RateLimited
from gateway.limits.journal import Journal
from gateway.limits.local import LocalLimits
from gateway.openapi import merge
from gateway.prices import Price, PriceTable, PriceTag, micro_usd, usd
from gateway.proxy.estimate import InvalidModelCall, read_call
from gateway.proxy.reply import bearer, new_request_id, timeout_of
from gateway.routing import MANAGEMENT, ROUTES, Metering, find_route, is_management
from gateway.settings import GatewaySettings
from shared.problems import BadRequest, BudgetExceeded, ServiceUnavailable, Unauthorized
from shared.settings import ConfigurationError
from tests.conftest import SECRET

dollars = st.decimals(min_value=0, max_value=1000, places=9)
counts = st.integers(0, 10**7)


@given(prompt=dollars, completion=dollars, cached=dollars, request=dollars, tokens=st.tuples(counts, counts))
def test_costs_are_exact_and_rounded_up(
    prompt: Decimal, completion: Decimal, cached: Decimal, request: Decimal, tokens: tuple[int, int]
) -> None:
    price = Price(prompt=prompt, completion=completion, cached_prompt=cached, request=request)
    tag = PriceTag(price)
    asked, answered = tokens
    hit = asked // 3
    million = 10**6
    exact = (
        Fraction(prompt) * (asked - hit) / million
        + Fraction(cached) * hit / million
        + Fraction(completion) * answered / million
        + Fraction(request)
    ) * million
    cost = tag.cost(asked, answered, hit)
    assert exact <= cost < exact + 1
    assert tag.worst(asked, answered) >= cost


def test_an_alias_without_a_price_costs_the_default() -> None:
    free = Price(prompt=Decimal(0), completion=Decimal(0))
    table = PriceTable({"free": free}, Price(prompt=Decimal(1), completion=Decimal(2)))
    assert table.tag("free").cost(100, 100) == 0
    assert table.tag("unknown").cost(1, 0) == 1


@given(st.integers(-(10**12), 10**15))
def test_money_is_written_exactly(micro: int) -> None:
    assert micro_usd(Decimal(usd(micro))) == micro
    assert re.fullmatch(r"-?\d+\.\d{2,6}", usd(micro))


def test_every_public_path_of_the_design_leads_somewhere() -> None:
    for path, service in {
        "/v1/chat/completions": "model",
        "/v1/models": "model",
        "/v1/models/org/name": "model",
        "/v1/engines/x/classify": "model",
        "/v1/sql/questions": "text2sql",
        "/v1/vision/scaffold": "vision",
        "/v1/adaptation/domains/x/y/z": "adaptation",
        "/v1/scheduler/pools": "scheduler",
        "/v1/training/jobs": "training",
        "/v1/agents/memories": "agents",
        "/v1/research/topics": "research",
    }.items():
        route = find_route(path)
        assert route is not None, path
        assert route.service == service
    for path in ("/", "/v1", "/v1/", "/v1/chat", "/v1/sqlite", "/v2/sql", "/v1/completions/x", "", "/V1/sql"):
        assert find_route(path) is None, path
    for path in ("/v1/keys", "/v1/keys/x", "/v1/usage", "/v1/jobs/job_1/events"):
        assert find_route(path) is None
        assert is_management(path)
    assert not is_management("/v1/keysmith")
    assert not {route.prefix for route in ROUTES} & set(MANAGEMENT)


def test_keys_are_recognised_and_slips_refused() -> None:
    secret = new_secret()
    assert looks_like_key(secret)
    assert len({new_secret() for _ in range(100)}) == 100
    for index in range(3, len(secret)):
        slipped = secret[:index] + ("A" if secret[index] != "A" else "B") + secret[index + 1 :]
        assert not looks_like_key(slipped)
    assert not looks_like_key(secret + "é")


def key(**fields: object) -> Key:
    values: dict[str, object] = {
        "id": "key_1",
        "tenant": "t",
        "tenant_class": "c",
        "scopes": frozenset(),
        "version": 1,
    }
    return Key(**(values | fields))  # type: ignore[arg-type]


def test_periods_begin_and_end_in_utc() -> None:
    moment = 1_796_083_199.0  # 2026-11-30 23:59:59 UTC
    assert period_at("day", moment) == ("2026-11-30", moment + 1)
    assert period_at("month", moment) == ("2026-11", moment + 1)
    assert period_at("month", moment + 1)[0] == "2026-12"
    assert period_at("total", moment)[0] == "total"
    start = period_start("2026-12")
    assert start is not None
    assert (start.month, start.day) == (12, 1)
    budget = key(budget_id="budget_1", budget_period="month")
    assert budget.budget_key(moment) == "lw:budget:budget_1:2026-11"
    assert budget.budget_key(moment + 1) == "lw:budget:budget_1:2026-12"


async def test_a_flood_of_unknown_keys_does_not_take_the_database_away() -> None:
    running = peak = asked = 0

    async def by_digest(_: str) -> None:
        nonlocal running, peak, asked
        asked += 1
        running += 1
        peak = max(peak, running)
        await asyncio.sleep(0.01)
        running -= 1

    async def by_id(_: str) -> None:
        return None

    cache = KeyCache(by_digest, by_id)
    same = new_secret()
    secrets = [new_secret() for _ in range(50)] + [same] * 50
    results = await asyncio.gather(*(cache.get(secret) for secret in secrets), return_exceptions=True)
    assert all(isinstance(result, Unauthorized) for result in results)
    assert peak <= KeyCache.LOADS
    assert asked == 51, "the same key is asked for once"
    with pytest.raises(Unauthorized):
        await cache.get(same)
    assert asked == 51, "and remembered as unknown for a moment"


async def test_a_database_that_is_away_is_503_not_401() -> None:
    async def broken(_: str) -> None:
        raise OSError("gone")

    cache = KeyCache(broken, broken)
    with pytest.raises(ServiceUnavailable):
        await cache.get(new_secret())
    with pytest.raises(ServiceUnavailable):
        await cache.get_by_id("key_1")


def test_request_ids_are_ulids() -> None:
    made = [new_request_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert all(re.fullmatch(r"req_[0-7][0-9A-HJKMNP-TV-Z]{25}", one) for one in made)
    assert abs(ULID.from_str(made[0][4:]).timestamp - time.time()) < 5


def test_headers_are_read_carefully() -> None:
    assert bearer({b"authorization": b"Bearer  abc "}) == "abc"
    assert bearer({b"authorization": b"bearer abc"}) == "abc"
    for value in (b"Basic abc", b"Bearer", b"Bearer \xff", b""):
        assert not bearer({b"authorization": value})
    assert timeout_of({}, 5) == 5
    assert timeout_of({b"lattice-timeout": b"2.5"}, 5) == 2.5
    assert timeout_of({b"lattice-timeout": b"50"}, 5) == 5
    with pytest.raises(BadRequest):
        timeout_of({b"lattice-timeout": b"x"}, 5)


def test_the_worst_case_of_a_call() -> None:
    def outputs(metering: Metering = Metering.CHAT, **fields: object) -> tuple[int, int | None]:
        call = read_call(orjson.dumps({"model": "m", **fields}), metering)
        return call.outputs, call.max_output

    assert outputs() == (1, None)
    assert outputs(n=3, max_tokens=7) == (3, 7)
    assert outputs(max_tokens=7, max_completion_tokens=9) == (1, 9)
    assert outputs(n=-1, max_tokens=True) == (1, None)
    assert outputs(n="2", max_tokens="9") == (1, None)
    assert outputs(Metering.COMPLETION, prompt=["a", "b"], n=2, best_of=5, max_tokens=1) == (10, 1)
    assert outputs(Metering.COMPLETION, prompt=[1, 2, 3]) == (1, None)
    assert outputs(Metering.COMPLETION, prompt=[[1, 2], [3]]) == (2, None)
    assert outputs(Metering.EMBEDDING, input="x", n=9)[0] == 0
    assert outputs(n=10**18, max_tokens=10**18) == (1 << 40, 1 << 40)
    image = {"type": "image_url", "image_url": {"url": "https://x"}}
    call = read_call(orjson.dumps({"model": "m", "messages": [{"content": [image, image]}]}), Metering.CHAT)
    assert call.images == 2
    assert call.prompt_at_most(1.0, 1000) == len(call.body) + 2000


@given(st.binary(max_size=60) | st.text(max_size=40).map(lambda text: orjson.dumps({"model": text})))
def test_any_bytes_are_a_call_or_a_refusal(body: bytes) -> None:
    try:
        call = read_call(body, Metering.CHAT)
    except InvalidModelCall:
        return
    assert call.model


@given(
    fields=st.dictionaries(
        st.text(min_size=1, max_size=8), st.integers() | st.text(max_size=8) | st.none(), max_size=5
    ),
    space=st.sampled_from(["", " ", "\n\t "]),
    bound=st.none() | st.integers(1, 99),
)
def test_what_is_spliced_in_is_there_and_nothing_else_changes(
    fields: dict[str, object], space: str, bound: int | None
) -> None:
    fields = {name: value for name, value in fields.items() if name not in ("stream_options", "max_tokens")}
    fields |= {"model": "m"}
    fields = {
        name: value for name, value in fields.items() if not isinstance(value, int) or abs(value) < 2**53
    }
    body = (space + orjson.dumps(fields).decode() + space).encode()
    call = read_call(body, Metering.CHAT)
    out = call.outgoing(usage=True, max_output=bound)
    added: dict[str, object] = {"stream_options": {"include_usage": True}}
    if bound is not None:
        added["max_tokens"] = bound
    assert orjson.loads(out) == fields | added
    assert body[body.index(b"{") + 1 :] in out
    assert call.outgoing(usage=False, max_output=None) is body


def test_local_limits_start_over_each_minute_and_outage() -> None:
    now = [0.0]
    limits = LocalLimits(frozenset({"key_1"}), 100, clock=lambda: now[0])
    limited = key(requests_per_minute=2, tokens_per_minute=50)
    limits.reserve(limited, 10, 10)
    limits.reserve(limited, 10, 10)
    with pytest.raises(RateLimited):
        limits.reserve(limited, 10, 10)
    now[0] = 60.0
    with pytest.raises(RateLimited):
        limits.reserve(limited, 60, 1)
    with pytest.raises(BudgetExceeded):
        limits.reserve(limited, 1, 90)
    limits.settle(limited, reserved=20, cost=0)
    limits.reserve(limited, 1, 90)
    limits.reset()
    limits.reserve(limited, 1, 100)


def test_the_journal_keeps_what_came_after(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(["a", b"b", 1])
    [(path, entries)] = journal.take()
    assert entries == [["a", "b", 1]]
    journal.append(["c"])
    journal.done(path, 1)
    assert [entry for _, found in journal.take() for entry in found] == [["c"]]
    assert journal.waiting == 1
    other = tmp_path / "unsettled-99999999.jsonl"
    other.write_bytes(b'["d"]\n["half')
    assert sorted(entry[0] for _, found in journal.take() for entry in found) == ["c", "d"]
    own = tmp_path / "unsettled-1.jsonl"  # Process 1 lives, so its journal is its own.
    own.write_bytes(b'["e"]\n')
    assert ["e"] not in [entry for _, found in journal.take() for entry in found]


def test_merging_keeps_references_right() -> None:
    own = {"components": {"schemas": {"A": {"type": "string"}, "Same": {"type": "null"}}}, "paths": {}}
    theirs = {
        "components": {
            "schemas": {
                "A": {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/A"}}},
                "Same": {"type": "null"},
            }
        },
        "paths": {"/v1/sql/{x}": {"get": {"responses": {"200": {"$ref": "#/components/schemas/Same"}}}}},
    }
    merged = merge(own, {"text2sql": theirs})
    schemas = merged["components"]["schemas"]
    assert schemas["Text2sqlA"]["properties"]["next"] == {"$ref": "#/components/schemas/Text2sqlA"}
    assert set(schemas) == {"A", "Same", "Text2sqlA"}
    operation = merged["paths"]["/v1/sql/{x}"]["get"]
    assert operation["tags"] == ["text2sql"]
    assert operation["responses"]["200"] == {"$ref": "#/components/schemas/Same"}
    assert {"402", "502", "503", "504"} <= set(operation["responses"]), "what the gateway itself may say"


def settings(**fields: object) -> GatewaySettings:
    values: dict[str, object] = {"principal_secret": SECRET, "_env_file": None}
    return GatewaySettings(**(values | fields))  # type: ignore[arg-type]


def test_prices_come_from_the_file_and_the_settings_win(tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text('{"a": {"prompt": "1", "completion": "1"}, "b": {"prompt": "1", "completion": "1"}}')
    price = {"b": {"prompt": "5", "completion": "5"}}
    table = settings(gateway_prices_file=file, gateway_prices=price).price_table()
    assert (table.tag("a").cost(10, 0), table.tag("b").cost(10, 0)) == (10, 50)
    for text, complaint in (
        ("{", "is not JSON"),
        ('{"a": {"prompt": "-1", "completion": "1"}}', "wrong at a.prompt"),
        ('{"a": {"prompt": "1"}}', "wrong at a.completion"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigurationError, match=complaint):
            settings(gateway_prices_file=file).price_table()


def test_every_setting_says_what_it_is_for() -> None:
    for name, field in GatewaySettings.model_fields.items():
        if name.startswith("gateway_"):
            assert field.description, name
