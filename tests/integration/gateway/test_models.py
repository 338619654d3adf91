"""Model calls through the whole gateway: bytes, usage, money, and how each way of ending is settled."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from shared.principal import Principal, PrincipalSigner
from shared.upstream import BreakerState, UpstreamDied
from tests.conftest import SECRET
from tests.integration.gateway.live import (
    BODY,
    CHAT,
    DONE,
    END,
    HELLO,
    SSE,
    Live,
    answers,
    chunk,
    event,
    gateway,
    http,
    streams,
    usage_event,
)
from tests.unit.upstream.servers import Call, Handler, ScriptedServer, serving

Start = Callable[..., Any]


@contextlib.asynccontextmanager
async def before(
    redis_url: str, tmp_path: Path, handler: Handler, **settings: Any
) -> AsyncIterator[tuple[Live, ScriptedServer]]:
    async with serving(handler) as server:
        async with gateway(redis_url, tmp_path / "home", {"model": server.url}, **settings) as live:
            yield live, server


def sent_body(server: ScriptedServer, bodies: list[bytes]) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(bodies[-1])
    return fields


async def test_an_answer_passes_byte_for_byte_and_is_booked(redis_url: str, tmp_path: Path) -> None:
    raw = b'{"odd" :  "spacing", "usage": {"prompt_tokens": 7, "completion_tokens": 3}}'
    bodies: list[bytes] = []

    async def handler(call: Call) -> None:
        bodies.append(await call.body())
        await call.send(http(200, raw, extra="X-Model: tiny\r\nDate: yesterday\r\nServer: evil\r\n"))

    async with before(redis_url, tmp_path, handler) as (live, _):
        key = await live.new_key()
        answer = await live.call("POST", CHAT, key=key, body=BODY, headers={"x-request-id": "req-mine"})
        assert (answer.status, answer.body) == (200, raw)
        assert answer.headers["x-model"] == "tiny"
        assert answer.headers["x-request-id"] == "req-mine"
        assert "evil" not in answer.headers.get("server", "")
        assert bodies == [orjson.dumps(BODY)], "no re-encoding on the way up either"
        usage = await live.usage()
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["requests"]) == (7, 3, 1)
        # 7 prompt and 3 completion tokens at the default price of 1 and 2 dollars a million.
        assert usage["cost"] == 13


async def test_the_key_stays_here_and_the_principal_goes_on(redis_url: str, tmp_path: Path) -> None:
    async with before(redis_url, tmp_path, answers()) as (live, server):
        key = await live.new_key(scopes=("model", "sql"))
        await live.call(
            "POST", CHAT, key=key, body=BODY, headers={"lattice-tenant": "other", "cookie": "a=b"}
        )
        head = server.calls[-1].decode()
        assert key not in head
        assert "lattice-tenant" not in head
        assert "cookie" not in head
        token = head.partition("authorization: Bearer ")[2].partition("\r\n")[0]
        principal = PrincipalSigner(SECRET).verify(token, audience="model")
        assert principal.tenant == "acme"
        assert principal.scopes == {"model", "sql"}
        assert principal.request_id.startswith("req_")
        assert f"x-request-id: {principal.request_id}" in head


async def test_streams_pass_byte_for_byte_and_unbuffered(redis_url: str, tmp_path: Path) -> None:
    """The upstream sends the next event only when the client has the one before."""
    received = asyncio.Semaphore(0)
    events = [event(f"w{index}") for index in range(6)]

    async def handler(call: Call) -> None:
        await call.body()
        await call.send(SSE)
        for data in events:
            await call.send(chunk(data))
            await received.acquire()
        await call.send(chunk(usage_event(5, 6)) + chunk(DONE) + END)

    async with before(redis_url, tmp_path, handler) as (live, _):
        key = await live.new_key()
        async with asyncio.timeout(5):
            response = await live.open("POST", CHAT, key=key, body={**BODY, "stream": True})
            got = []
            for expected in events:
                piece = await response.read()
                got.append(piece)
                assert piece == expected
                received.release()
            got.append(await response.read_all(1000))
        assert got[-1] == DONE
        usage = await live.usage()
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (5, 6)
        assert usage["failures"] == 0


async def test_usage_is_asked_for_and_taken_out_only_if_the_client_did_not_ask(
    redis_url: str, tmp_path: Path
) -> None:
    """LiteLLM #36168, #35290: streams are billed by what the upstream reports, cached tokens too."""
    details = {"cached_tokens": 40}
    reported = usage_event(50, 2, prompt_tokens_details=details)
    bodies: list[bytes] = []

    async def handler(call: Call) -> None:
        bodies.append(await call.body())
        await call.send(
            SSE + chunk(event("a", usage=None)) + chunk(event("b")) + chunk(reported + DONE) + END
        )

    prices = {"default": {"prompt": "10", "completion": "20", "cached_prompt": "1"}}
    async with before(redis_url, tmp_path, handler, prices=prices) as (live, _):
        key = await live.new_key()
        answer = await live.chat(key, stream=True)
        assert answer.body == event("a", usage=None) + event("b") + DONE
        assert orjson.loads(bodies[-1])["stream_options"] == {"include_usage": True}
        asked = await live.chat(key, stream=True, stream_options={"include_usage": True})
        assert asked.body == event("a", usage=None) + event("b") + reported + DONE
        assert bodies[-1] == orjson.dumps({**BODY, "stream": True, "stream_options": {"include_usage": True}})
        other = await live.chat(key, stream=True, stream_options={"x": 1})
        assert reported not in other.body
        assert orjson.loads(bodies[-1])["stream_options"] == {"x": 1, "include_usage": True}
        usage = await live.usage()
        assert (usage["prompt_tokens"], usage["cached_tokens"]) == (150, 120)
        assert usage["cost"] == 3 * (10 * 10 + 40 * 1 + 2 * 20)


async def test_usage_in_a_chunk_that_also_has_choices_counts_and_stays(
    redis_url: str, tmp_path: Path
) -> None:
    last = event("", usage={"prompt_tokens": 9, "completion_tokens": 4})
    async with before(redis_url, tmp_path, streams(event(), last, DONE)) as (live, _):
        answer = await live.chat(await live.new_key(), stream=True)
        assert answer.body == event() + last + DONE
        usage = await live.usage()
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (9, 4)


async def test_events_torn_anywhere_come_out_whole(redis_url: str, tmp_path: Path) -> None:
    stream = event("one") + event("two") + usage_event(3, 2) + DONE

    async def handler(call: Call) -> None:
        await call.body()
        await call.send(SSE)
        for index in range(0, len(stream), 7):
            await call.send(chunk(stream[index : index + 7]))
            await asyncio.sleep(0)
        await call.send(END)

    async with before(redis_url, tmp_path, handler) as (live, _):
        key = await live.new_key()
        assert (await live.chat(key, stream=True)).body == event("one") + event("two") + DONE
        asked = await live.chat(key, stream=True, stream_options={"include_usage": True})
        assert asked.body == stream
        usage = await live.usage()
        assert (usage["prompt_tokens"], usage["completion_tokens"], usage["failures"]) == (6, 4, 0)


async def test_usage_is_not_lost_when_the_client_disconnects_mid_stream(
    redis_url: str, tmp_path: Path
) -> None:
    """LiteLLM #14457. The upstream notices within a second, and what went out is paid."""
    gone = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.body()
        await call.send(SSE)
        for _ in range(5):
            await call.send(chunk(event()))
        await call.closed_by_peer()
        gone.set()

    async with before(redis_url, tmp_path, handler) as (live, _):
        key = await live.new_key(budget={"usd": "1"})
        response = await live.open("POST", CHAT, key=key, body={**BODY, "stream": True})
        while not (await response.read()).count(b"word") and not response.complete:
            pass
        await asyncio.sleep(0.05)
        response.close()
        async with asyncio.timeout(1):
            await gone.wait()
        await asyncio.sleep(0.05)
        usage = await live.usage()
        assert usage["completion_tokens"] == 5
        assert usage["prompt_tokens"] > 0
        assert usage["failures"] == 1
        budgets = await live.call("GET", "/v1/budgets")
        assert budgets.json["data"][0]["reserved_usd"] == "0.00"
        assert live.app.front.upstreams.pick("model").state is BreakerState.CLOSED


@pytest.mark.parametrize("waiting_for", ["head", "json body"])
async def test_a_client_that_leaves_early_cancels_the_upstream(
    redis_url: str, tmp_path: Path, waiting_for: str
) -> None:
    gone = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.body()
        if waiting_for == "json body":
            await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        await call.closed_by_peer()
        gone.set()

    async with before(redis_url, tmp_path, handler) as (live, server):
        key = await live.new_key()
        call = asyncio.create_task(live.chat(key))
        while not server.calls:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        call.cancel()
        async with asyncio.timeout(1):
            await gone.wait()
        await asyncio.sleep(0.05)
        assert (await live.usage())["prompt_tokens"] > 0, "the upstream had begun to work"
        assert not live.limiter._running


async def read_until_cut(live: Live, key: str) -> bytes:
    response = await live.open("POST", CHAT, key=key, body={**BODY, "stream": True})
    assert response.status == 200
    received = b""
    try:
        while piece := await response.read():
            received += piece
    except UpstreamDied:
        return received
    pytest.fail("the stream looks whole")


@pytest.mark.parametrize("how", ["reset", "close", "clean end without [DONE]"])
async def test_an_upstream_that_dies_mid_stream_is_no_clean_200(
    redis_url: str, tmp_path: Path, how: str
) -> None:
    """Portkey #1797: an error event in OpenAI's shape, a cut connection, a counted failure."""

    async def handler(call: Call) -> None:
        await call.body()
        await call.send(SSE + chunk(event()) + chunk(event()))
        await asyncio.sleep(0.01)
        if how == "clean end without [DONE]":
            await call.send(END)
        elif how == "close":
            call.writer.close()
        else:
            call.cut()

    async with before(redis_url, tmp_path, handler) as (live, _):
        key = await live.new_key(budget={"usd": "1"})
        # A clean end is a success to the client below us and a failure to us who miss [DONE].
        calls = 3 if how.startswith("clean") else 5
        for _ in range(calls):
            received = await read_until_cut(live, key)
            assert received.startswith(event() + event())
            last = orjson.loads(received.removesuffix(b"\n\n").rpartition(b"data: ")[2])
            assert last["error"]["type"] == "server_error"
        assert live.app.front.upstreams.pick("model").state is BreakerState.OPEN
        usage = await live.usage()
        assert (usage["completion_tokens"], usage["failures"]) == (2 * calls, calls)
        budget = (await live.call("GET", "/v1/budgets")).json["data"][0]
        assert budget["reserved_usd"] == "0.00"
        assert budget["used_tokens"] == usage["prompt_tokens"] + 2 * calls


async def test_an_upstream_that_dies_in_a_json_answer_is_cut_too(redis_url: str, tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        await call.body()
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{" + b" " * 99)
        await asyncio.sleep(0.02)
        call.cut()

    async with before(redis_url, tmp_path, handler) as (live, _):
        key = await live.new_key()
        response = await live.open("POST", CHAT, key=key, body=BODY)
        with pytest.raises(UpstreamDied):
            await response.read_all(1000)
        usage = await live.usage()
        assert (usage["failures"], usage["completion_tokens"]) == (1, 25)


def failing_first(times: int, failure: Callable[[Call], Any], then: Handler) -> Handler:
    seen = 0

    async def handler(call: Call) -> None:
        nonlocal seen
        seen += 1
        if seen <= times:
            await call.body()
            await failure(call)
        else:
            await then(call)

    return handler


async def dies_at_once(call: Call) -> None:
    call.cut()


async def dies_before_the_first_event(call: Call) -> None:
    await call.send(SSE)
    await asyncio.sleep(0.01)
    call.cut()


async def is_overloaded(call: Call) -> None:
    await call.send(http(503, b"{}", extra="Retry-After: 0\r\n"))


async def begins_with_an_error(call: Call) -> None:
    await call.send(SSE + chunk(b'data: {"error": {"message": "no"}}\n\n') + END)


@pytest.mark.parametrize(
    "failure", [dies_at_once, dies_before_the_first_event, is_overloaded, begins_with_an_error]
)
async def test_a_failure_before_the_first_chunk_is_tried_again_unseen(
    redis_url: str, tmp_path: Path, failure: Callable[[Call], Any]
) -> None:
    """LiteLLM #40404: the first chunk is held, so a retry is still possible."""
    handler = failing_first(2, failure, streams(event(), usage_event(4, 1), DONE))
    async with before(redis_url, tmp_path, handler) as (live, server):
        answer = await live.chat(await live.new_key(), stream=True)
        assert (answer.status, answer.body) == (200, event() + DONE)
        assert len(server.calls) == 3
        usage = await live.usage()
        assert (usage["requests"], usage["failures"], usage["completion_tokens"]) == (1, 0, 1)


async def test_a_model_that_fails_is_replaced_by_its_fallback_before_the_first_chunk(
    redis_url: str, tmp_path: Path
) -> None:
    asked: list[str] = []

    async def handler(call: Call) -> None:
        body = orjson.loads(await call.body())
        asked.append(body["model"])
        if body["model"] == "large":
            await call.send(http(500, b'{"error": {"message": "broken"}}'))
        else:
            assert body["messages"] == BODY["messages"]
            await call.send(SSE + chunk(event("small") + usage_event(4, 1) + DONE) + END)

    prices = {
        "large": {"prompt": "100", "completion": "100"},
        "small": {"prompt": "1", "completion": "1"},
    }
    settings = {"fallbacks": {"large": ["small"]}, "prices": prices}
    async with before(redis_url, tmp_path, handler, **settings) as (live, _):
        answer = await live.chat(await live.new_key(), model="large", stream=True)
        assert answer.body == event("small") + DONE
        assert asked == ["large", "small"]
        assert (await live.usage())["cost"] == 5, "paid at the price of the model that answered"


async def test_after_the_first_chunk_nothing_is_tried_again(redis_url: str, tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        await call.body()
        await call.send(SSE + chunk(event()))
        await asyncio.sleep(0.01)
        call.cut()

    settings = {"fallbacks": {"default": ["small"]}}
    async with before(redis_url, tmp_path, handler, **settings) as (live, server):
        await read_until_cut(live, await live.new_key())
        assert len(server.calls) == 1


async def test_one_bad_line_in_a_stream_is_not_our_business(redis_url: str, tmp_path: Path) -> None:
    """LiteLLM #25843: what only passes through is never parsed."""
    odd = b'data: {"usage": {"broken\n\n' + b": a comment\n\n" + b"data: not json at all\n\n"
    async with before(redis_url, tmp_path, streams(event(), odd, usage_event(3, 1), DONE)) as (live, _):
        answer = await live.chat(await live.new_key(), stream=True)
        assert answer.body == event() + odd + DONE


async def test_a_model_that_repeats_itself_is_not_cut(redis_url: str, tmp_path: Path) -> None:
    """LiteLLM's streaming handler stops after 100 equal chunks; a gateway does not judge content."""
    many = [event("same") * 50] * 6
    async with before(redis_url, tmp_path, streams(*many, DONE)) as (live, _):
        answer = await live.chat(await live.new_key(), stream=True)
        assert answer.body == event("same") * 300 + DONE
        assert (await live.usage())["completion_tokens"] == 300


async def test_errors_of_the_upstream_pass_and_cost_nothing(redis_url: str, tmp_path: Path) -> None:
    error = {"error": {"message": "context too long", "type": "invalid_request_error", "code": "x"}}
    async with before(redis_url, tmp_path, answers(error, 400)) as (live, server):
        key = await live.new_key(budget={"usd": "1"})
        answer = await live.chat(key)
        assert (answer.status, answer.json) == (400, error)
        assert len(server.calls) == 1
        usage = await live.usage()
        assert (usage["cost"], usage["failures"]) == (0, 1)
        assert await live.usage(model="default") == {}, "no model ever answered to this name"
        assert (await live.call("GET", "/v1/budgets")).json["data"][0]["reserved_usd"] == "0.00"


async def test_a_server_error_is_passed_on_when_nothing_else_helps(redis_url: str, tmp_path: Path) -> None:
    async with before(redis_url, tmp_path, answers({"error": {}}, 503), retries=1) as (live, server):
        answer = await live.chat(await live.new_key())
        assert (answer.status, answer.json) == (503, {"error": {}})
        assert len(server.calls) == 2


async def test_a_budget_refuses_before_and_bounds_what_it_admits(redis_url: str, tmp_path: Path) -> None:
    bodies: list[bytes] = []

    async def handler(call: Call) -> None:
        bodies.append(await call.body())
        await call.send(http(200, orjson.dumps(HELLO)))

    prices = {"default": {"prompt": "0", "completion": "1000", "max_output_tokens": 50}}
    async with before(redis_url, tmp_path, handler, prices=prices) as (live, _):
        key = await live.new_key(budget={"usd": "0.06"})
        refused = await live.chat(key, max_tokens=100)
        assert refused.status == 402
        assert refused.json["error"]["code"] == "insufficient_quota"
        assert not bodies
        unbounded = {name: value for name, value in BODY.items() if name != "max_tokens"}
        answer = await live.call("POST", CHAT, key=key, body=unbounded)
        assert answer.status == 200
        assert orjson.loads(bodies[-1])["max_tokens"] == 50, "a hard budget needs a bound"
        assert (await live.usage())["cost"] == 3000
        free_key = await live.new_key()
        await live.call("POST", CHAT, key=free_key, body=unbounded)
        assert b"max_tokens" not in bodies[-1], "without a budget the body is left alone"


async def test_budget_race_through_http_64_calls_with_money_for_10(redis_url: str, tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        await call.body()
        await asyncio.sleep(0.05)
        await call.send(
            http(200, orjson.dumps({**HELLO, "usage": {"prompt_tokens": 0, "completion_tokens": 10}}))
        )

    prices = {"default": {"prompt": "0", "completion": "1000"}}
    async with before(redis_url, tmp_path, handler, prices=prices) as (live, server):
        key = await live.new_key(budget={"usd": "0.1"})
        answers_ = await asyncio.gather(*(live.chat(key) for _ in range(64)))
        assert sorted({answer.status for answer in answers_}) == [200, 402]
        assert sum(answer.status == 200 for answer in answers_) == 10
        assert len(server.calls) == 10
        budget = (await live.call("GET", "/v1/budgets")).json["data"][0]
        assert (budget["used_usd"], budget["reserved_usd"]) == ("0.10", "0.00")


@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings"])
async def test_no_route_bypasses_the_budget(redis_url: str, tmp_path: Path, path: str) -> None:
    """Bifrost #2873: the budget is on the port, for users and for services that act for them."""
    async with before(redis_url, tmp_path, answers()) as (live, server):
        key = await live.new_key(budget={"usd": "0"})
        body = {"model": "default", "input": "x", "prompt": "x", "messages": []}
        assert (await live.call("POST", path, key=key, body=body)).status == 402
        found = live.app.front.callers.find(key)
        assert found is not None
        principal = Principal(found.key.id, "acme", frozenset({"model"}))
        token = PrincipalSigner(SECRET).sign(principal, audience="gateway")
        assert (await live.call("POST", path, key=token, body=body)).status == 402
        for trick in (f"{path}/", f"{path}/x", path.upper(), f"/v1/models/../{path[4:]}"):
            assert (await live.call("POST", trick, key=key, body=body)).status in (404, 405)
        assert not server.calls


async def test_numbers_beyond_reason_are_a_matter_of_money(redis_url: str, tmp_path: Path) -> None:
    async with before(redis_url, tmp_path, answers()) as (live, _):
        endless = {"n": 10**18, "max_tokens": 10**18}
        assert (await live.chat(await live.new_key(), **endless)).status == 200
        assert (await live.chat(await live.new_key(budget={"usd": "1000"}), **endless)).status == 402
        limited = await live.new_key(tokens_per_minute=1000)
        assert (await live.chat(limited, **endless)).status == 429


async def test_an_unknown_model_is_never_silently_free(redis_url: str, tmp_path: Path) -> None:
    async with before(redis_url, tmp_path, answers()) as (live, _):
        await live.chat(await live.new_key(), model="nobody-priced-this")
        assert (await live.usage())["cost"] > 0


async def test_embeddings_and_batches_are_reserved_by_their_size(redis_url: str, tmp_path: Path) -> None:
    prices = {"default": {"prompt": "0", "completion": "1000"}}
    async with before(redis_url, tmp_path, answers(), prices=prices) as (live, _):
        key = await live.new_key(budget={"usd": "0.02"})
        body = {"model": "default", "prompt": ["a", "b", "c"], "max_tokens": 10}
        assert (await live.call("POST", "/v1/completions", key=key, body=body)).status == 402
        body = {"model": "default", "messages": [], "max_tokens": 10, "n": 3}
        assert (await live.call("POST", CHAT, key=key, body=body)).status == 402
        body = {"model": "default", "input": ["a"] * 100}
        assert (await live.call("POST", "/v1/embeddings", key=key, body=body)).status == 200


BAD_CALLS = {
    "not json": b"{",
    "not an object": b"[1]",
    "no model": b"{}",
    "model is a number": b'{"model": 1}',
    "model is empty": b'{"model": ""}',
    "model is unprintable": b'{"model": "a\\u0000b"}',
    "model is endless": orjson.dumps({"model": "m" * 300}),
    "nothing": b"",
    "not text": b"\xff\xfe",
}


@pytest.mark.parametrize("name", BAD_CALLS)
async def test_bad_bodies_are_openai_errors(redis_url: str, tmp_path: Path, name: str) -> None:
    async with before(redis_url, tmp_path, answers()) as (live, server):
        answer = await live.call("POST", CHAT, key=await live.new_key(), body=BAD_CALLS[name])
        assert answer.status == 400
        assert answer.json["error"]["type"] == "invalid_request_error"
        assert not server.calls


async def test_who_may_not_call_is_told_in_openai_shape(redis_url: str, tmp_path: Path) -> None:
    async with before(redis_url, tmp_path, answers()) as (live, _):
        assert (await live.chat("")).json["error"]["code"] == "missing_credentials"
        assert (await live.chat("lw_wrong")).json["error"]["code"] == "invalid_api_key"
        refused = await live.chat(await live.new_key(scopes=("sql",)))
        assert (refused.status, refused.json["error"]["type"]) == (403, "permission_error")
        limited = await live.new_key(requests_per_minute=2)
        shown = await live.chat(limited)
        assert shown.headers["x-ratelimit-remaining-requests"] == "1"
        await live.chat(limited)
        refused = await live.chat(limited)
        assert (refused.status, refused.json["error"]["type"]) == (429, "rate_limit_error")
        assert int(refused.headers["retry-after"]) >= 1
        answer = await live.call("GET", CHAT, key=limited)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")


async def test_deadlines_end_calls(redis_url: str, tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        await call.closed_by_peer()

    async with before(redis_url, tmp_path, handler) as (live, _):
        key = await live.new_key()
        late = await live.call("POST", CHAT, key=key, body=BODY, headers={"lattice-timeout": "0.1"})
        assert (late.status, late.json["error"]["code"]) == (504, "deadline_exceeded")
        for nonsense in ("0", "-1", "soon", "nan", "inf"):
            answer = await live.call("POST", CHAT, key=key, body=BODY, headers={"lattice-timeout": nonsense})
            assert answer.status == 400


async def test_a_full_upstream_answers_503_with_retry_after(redis_url: str, tmp_path: Path) -> None:
    release = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.body()
        await release.wait()
        await call.send(http(200, orjson.dumps(HELLO)))

    settings = {"concurrency": 2, "waiting": 1, "waiting_seconds": 5.0}
    async with before(redis_url, tmp_path, handler, **settings) as (live, _):
        key = await live.new_key()
        running = [asyncio.create_task(live.chat(key)) for _ in range(3)]
        pool = live.app.front.upstreams.pick("model")
        while not (pool.active == 2 and pool.waiting == 1):
            await asyncio.sleep(0.005)
        refused = await live.chat(key)
        assert refused.status == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json["error"]["code"] == "overloaded"
        release.set()
        assert [(await task).status for task in running] == [200] * 3


async def test_nothing_is_held_after_many_calls(redis_url: str, tmp_path: Path) -> None:
    """LiteLLM #12685 and others: memory must not grow with the number of requests."""
    async with before(redis_url, tmp_path, answers()) as (live, _):
        key = await live.new_key(budget={"usd": "100"}, requests_per_minute=10**6)
        for _ in range(20):
            await asyncio.gather(*(live.chat(key) for _ in range(20)))
        assert (await live.usage())["requests"] == 400
        assert not live.limiter._running
        assert not live.limiter._unconfirmed
        assert live.app.models.held.bytes == 0
        pool = live.app.front.upstreams.pick("model")
        assert (pool.active, pool.waiting) == (0, 0)
        assert live.app.front.metrics.in_flight == 0
        pipe = live.limiter._pipe
        assert await pipe.call("HLEN", "lw:reservations") == 0
        assert await pipe.call("ZCARD", "lw:expiry") == 0
        assert await pipe.call("XLEN", "lw:usage") == 0
