"""Calls of other services through the whole gateway: streamed both ways, checked, never altered."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from gateway.server import Guard
from shared.upstream import HttpUpstream, Request, Timeouts, UpstreamError
from tests.integration.gateway.live import END, SSE, Live, answers, chunk, gateway, http
from tests.unit.upstream.servers import Call, Handler, serving


async def echo(call: Call) -> None:
    body = await call.body()
    answer = orjson.dumps({"head": call.head.decode(), "body": body.decode()})
    await call.send(http(200, answer))


async def test_everything_passes_as_it_was_sent(redis_url: str, tmp_path: Path) -> None:
    async with (
        serving(echo) as server,
        gateway(redis_url, tmp_path, {"vision": server.url, "text2sql": server.url}) as live,
    ):
        key = await live.new_key(scopes=("vision",), requests_per_minute=100)
        answer = await live.call(
            "POST",
            "/v1/vision/a%2Fb/%C3%A9?q=1&q=2%20x",
            key=key,
            body=b"raw",
            headers={
                "x-own": "kept",
                "x-forwarded-for": "1.2.3.4",
                "lattice-tenant": "other",
                "cookie": "c",
                "connection": "x-dropped",
                "x-dropped": "1",
                "te": "trailers",
            },
        )
        head = answer.json["head"]
        assert head.startswith("POST /v1/vision/a%2Fb/%C3%A9?q=1&q=2%20x HTTP/1.1\r\n")
        assert answer.json["body"] == "raw"
        assert "x-own: kept" in head
        for gone in ("1.2.3.4", "lattice-tenant", "cookie", "\r\nte:", key):
            assert gone not in head
        assert answer.headers["x-ratelimit-remaining-requests"] == "99"
        # Another room needs another scope; a room that is not there says so; unknown paths are 404.
        assert (await live.call("GET", "/v1/sql/databases", key=key)).status == 403
        missing = await live.call("GET", "/v1/agents/rollouts")
        assert (missing.status, missing.json["code"]) == (404, "service_not_running")
        assert missing.headers["content-type"] == "application/problem+json"
        for path in ("/v1/visionx", "/v1/vision/../keys", "/v1/vision/%2e%2e/x", "/v1/vision/%5c..", "/v1"):
            assert (await live.call("GET", path, key=key)).status in (403, 404), path
        assert (await live.call("GET", "/v1/vision/x", key="")).status == 401
        usage = await live.usage(service="vision")
        assert (usage["cost"], usage["requests"]) == (0, 1)


async def test_methods_and_empty_answers(redis_url: str, tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        await call.body()
        method = call.head.partition(b" ")[0]
        if method == b"HEAD":
            await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")
            call.writer.close()
        elif method == b"DELETE":
            await call.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif method == b"GET":
            await call.send(b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 9\r\n\r\n")
        else:
            await call.send(http(422, b'{"detail": "no"}', kind="application/problem+json"))

    async with serving(handler) as server, gateway(redis_url, tmp_path, {"vision": server.url}) as live:
        head = await live.call("HEAD", "/v1/vision/x")
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "5")
        assert (await live.call("DELETE", "/v1/vision/x")).status == 204
        cached = await live.call("GET", "/v1/vision/x")
        assert (cached.status, cached.headers["etag"], cached.body) == (304, "x", b"")
        refused = await live.call("PATCH", "/v1/vision/x", body=b"{}")
        assert (refused.status, refused.body) == (422, b'{"detail": "no"}')


async def test_large_bodies_stream_both_ways_without_being_held(redis_url: str, tmp_path: Path) -> None:
    """envoyproxy ai-gateway #805, #494: nothing is buffered whole; the first byte goes on at once."""
    size = 40_000_000
    began = asyncio.Event()

    async def handler(call: Call) -> None:
        seen = hashlib.sha256()
        count = 0
        while count < size:
            piece = await call.reader.read(1 << 20)
            began.set()
            seen.update(piece)
            count += len(piece)
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (64 + size))
        await call.send(seen.hexdigest().encode())
        for _ in range(size // 1_000_000):
            await call.send(bytes(1_000_000))

    async def body(digest: list[str]) -> AsyncIterator[bytes]:
        seen = hashlib.sha256()
        for index in range(size // 1_000_000):
            piece = bytes([index]) * 1_000_000
            seen.update(piece)
            yield piece
            if index == 0:
                async with asyncio.timeout(5):
                    await began.wait()
        digest.append(seen.hexdigest())

    async with serving(handler) as server, gateway(redis_url, tmp_path, {"model": server.url}) as live:
        digest: list[str] = []
        headers = [(b"authorization", f"Bearer {live.admin}".encode())]
        request = Request("PUT", "/v1/artifacts/x", headers, body(digest), content_length=size)
        response = await live.client.open(request)
        received = await response.read_all(size + 100)
        assert received[:64].decode() == digest[0]
        assert len(received) == 64 + size


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_100_mb_bodies_are_cut_off(redis_url: str, tmp_path: Path, declared: bool) -> None:
    sent = 0

    async def swallow(call: Call) -> None:
        await call.closed_by_peer()

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1_000_000
            yield bytes(1_000_000)

    async with (
        serving(swallow) as server,
        gateway(
            redis_url,
            tmp_path,
            {"model": server.url, "vision": server.url},
            body_limit_bytes=5_000_000,
            model_body_bytes=5_000_000,
        ) as live,
    ):
        headers = [(b"authorization", f"Bearer {live.admin}".encode())]
        length = 100_000_000 if declared else None
        for path in ("/v1/vision/ask", "/v1/chat/completions", "/v1/keys"):
            sent = 0
            try:
                response = await live.client.open(
                    Request("POST", path, headers, body(), content_length=length)
                )
            except UpstreamError:
                pass  # The connection was cut before the refusal could be read.
            else:
                assert response.status == 413, path
            assert sent < 40_000_000, path
        assert live.app.models.held.bytes == 0


async def test_event_streams_of_services_pass_unbuffered(redis_url: str, tmp_path: Path) -> None:
    received = asyncio.Semaphore(0)

    async def handler(call: Call) -> None:
        await call.send(SSE)
        for index in range(4):
            await call.send(chunk(b"id: %d\ndata: {}\n\n" % index))
            await received.acquire()
        await call.send(END)

    async with serving(handler) as server, gateway(redis_url, tmp_path, {"research": server.url}) as live:
        response = await live.open("GET", "/v1/research/runs/x/events")
        async with asyncio.timeout(3):
            for index in range(4):
                assert await response.read() == b"id: %d\ndata: {}\n\n" % index
                received.release()
            assert await response.read() == b""


async def test_only_harmless_calls_are_repeated(redis_url: str, tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def handler(call: Call) -> None:
        await call.body()
        seen.append(call.head.partition(b"\r\n")[0])
        if len(seen) % 3:
            call.cut()
        else:
            await call.send(http(200, b"{}"))

    async with serving(handler) as server, gateway(redis_url, tmp_path, {"vision": server.url}) as live:
        assert (await live.call("GET", "/v1/vision/x")).status == 200
        assert len(seen) == 3
        keyed = await live.call("POST", "/v1/vision/x", body=b"{}", headers={"idempotency-key": "k"})
        assert (keyed.status, len(seen)) == (200, 6)
        failed = await live.call("POST", "/v1/vision/x", body=b"{}")
        assert (failed.status, failed.json["code"], len(seen)) == (502, "upstream_failed", 7)


async def test_an_upstream_that_is_away_is_said_and_then_left_alone(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path, {"vision": "http://127.0.0.1:9"}) as live:
        for _ in range(3):
            answer = await live.call("GET", "/v1/vision/x")
            assert (answer.status, answer.json["code"]) == (503, "upstream_unavailable")
            assert int(answer.headers["retry-after"]) >= 1
        assert "left alone" in answer.json["detail"]
        ready = await live.call("GET", "/readyz", key="")
        assert ready.status == 200, "one room that is away does not close the house"
        assert ready.json["status"] == "degraded"
        assert "cannot be reached" in ready.json["not_ready"]["vision"]


async def raw(live: Live, data: bytes, *, then: float = 0.0, more: bytes = b"") -> bytes:
    """Send bytes, wait, send more, read until the gateway closes (at most three seconds)."""
    host, _, port = live.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await asyncio.sleep(then)
        if more:
            writer.write(more)
        async with asyncio.timeout(4):
            return await reader.read()
    finally:
        writer.close()


def assert_refused(received: bytes, status: int, code: str) -> None:
    """A whole answer of the server itself: a problem document, and the end of the connection."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close" in head
    assert b"\r\ncontent-length: %d" % len(body) in head
    document = orjson.loads(body)
    assert (document["status"], document["code"]) == (status, code)


async def test_what_is_no_request_gets_a_problem_document(redis_url: str, tmp_path: Path) -> None:
    async with gateway(redis_url, tmp_path, {}) as live:
        for nonsense in (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"GET /\x00 HTTP/1.1\r\n\r\n",
            b"GET /" + b"a" * 65_600 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
        ):
            assert_refused(await raw(live, nonsense), 400, "bad_request")


async def test_slow_loris_is_cut_off(redis_url: str, tmp_path: Path) -> None:
    guard = Guard(header_seconds=0.5, body_seconds=0.5, body_rate=1000)
    async with (
        serving(answers()) as server,
        gateway(redis_url, tmp_path, {"model": server.url, "vision": server.url}, guard=guard) as live,
    ):
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n"
            % live.admin.encode()
        )
        silent, half_head, slow_body, slow_upload = await asyncio.gather(
            raw(live, b""),
            raw(live, b"GET /v1/models HTTP/1.1\r\nhost:", then=0.2, more=b" x\r\nx-a: b"),
            raw(live, head + b"content-length: 1000\r\n\r\n{", then=0.3, more=b'"a'),
            raw(live, head.replace(b"chat/completions", b"vision/x") + b"content-length: 99999\r\n\r\nx"),
        )
        for cut in (silent, half_head, slow_body, slow_upload):
            assert_refused(cut, 408, "request_timeout")
        endless = await raw(live, b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000)
        assert_refused(endless, 431, "head_too_large")
        # A quick client on a kept connection is not disturbed by the same guard.
        key = await live.new_key()
        assert (await live.chat(key)).status == 200
        await asyncio.sleep(1.2)
        assert (await live.chat(key)).status == 200
        assert live.app.models.held.bytes == 0


async def test_a_client_that_does_not_read_is_cut_off(redis_url: str, tmp_path: Path) -> None:
    stopped = asyncio.Event()

    async def endless(call: Call) -> None:
        await call.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n")
        try:
            while True:
                await call.send(bytes(1_000_000))
        except ConnectionError:
            stopped.set()

    guard = Guard(write_seconds=0.5)
    async with (
        serving(endless) as server,
        gateway(redis_url, tmp_path, {"vision": server.url}, guard=guard) as live,
    ):
        await live.open("GET", "/v1/vision/x")
        async with asyncio.timeout(5):
            await stopped.wait()


def handler_for(names: list[str], schema: dict[str, object], path: str) -> Handler:
    document = {
        "openapi": "3.1.0",
        "paths": {
            path: {
                "get": {
                    "operationId": "list_things",
                    "responses": {
                        "200": {
                            "description": "x",
                            "content": {
                                "application/json": {"schema": {"$ref": "#/components/schemas/Thing"}}
                            },
                        }
                    },
                }
            },
            "/healthz": {"get": {"responses": {}}},
            "/v1/keys": {"get": {"operationId": "stolen", "responses": {}}},
        },
        "components": {"schemas": {"Thing": schema}},
    }

    async def handler(call: Call) -> None:
        names.append(call.head.decode())
        await call.send(http(200, orjson.dumps(document)))

    return handler


async def test_one_description_of_everything(redis_url: str, tmp_path: Path) -> None:
    asked: list[str] = []
    one: dict[str, object] = {"type": "object", "title": "One"}
    other: dict[str, object] = {"type": "string", "title": "Other"}
    async with (
        serving(handler_for(asked, one, "/v1/sql/things")) as sql,
        serving(handler_for(asked, other, "/v1/vision/things")) as vision,
        gateway(
            redis_url,
            tmp_path,
            {"text2sql": sql.url, "vision": vision.url, "research": "http://127.0.0.1:9"},
        ) as live,
    ):
        document = (await live.call("GET", "/openapi.json", key="")).json
        paths, schemas = document["paths"], document["components"]["schemas"]
        assert {"/v1/sql/things", "/v1/vision/things", "/v1/keys", "/healthz"} <= set(paths)
        assert paths["/v1/keys"]["get"]["operationId"] != "stolen"
        assert schemas["Thing"] == one
        assert schemas["VisionThing"] == other
        answer = paths["/v1/vision/things"]["get"]["responses"]["200"]
        assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/VisionThing"}
        assert paths["/v1/vision/things"]["get"]["operationId"] == "Vision_list_things"
        count = len(asked)
        await live.call("GET", "/openapi.json", key="")
        assert len(asked) == count, "the document is kept for a while"
        page = await live.call("GET", "/docs", key="")
        assert b"swagger-ui" in page.body
        script = await live.call("GET", "/docs/swagger-ui-bundle.js", key="")
        assert (script.status, len(script.body) > 500_000) == (200, True)
        assert "script-src 'self'" in page.headers["content-security-policy"]


async def test_metrics_speak_of_classes_and_never_of_keys(redis_url: str, tmp_path: Path) -> None:
    """LiteLLM's own latency leaves out the time before its handler; in-flight and loop lag show it."""
    async with serving(answers()) as server, gateway(redis_url, tmp_path, {"model": server.url}) as live:
        key = await live.new_key(tenant_class="gold", requests_per_minute=1)
        await live.chat(key)
        await live.chat(key)
        await asyncio.sleep(0.6)
        assert (await live.call("GET", "/metrics", key=key)).status in (403, 429)
        text = (await live.call("GET", "/metrics")).body.decode()
        for line in (
            'gen_ai_client_token_usage_bucket{gen_ai_operation_name="chat",gen_ai_token_type="input",'
            'le="16.0",tenant_class="gold"} 1.0',
            'latticework_gateway_requests_total{service="model",status="200",tenant_class="gold"} 1.0',
            'latticework_gateway_requests_total{service="model",status="429",tenant_class="gold"} 1.0',
            'latticework_gateway_limiter_rejections_total{reason="requests"} 2.0',
            'latticework_gateway_breaker_state{address="0",service="model"} 0.0',
            "gen_ai_client_operation_duration_seconds_bucket",
            "latticework_gateway_cost_usd_total",
            "latticework_gateway_in_flight 0.0",
            "latticework_event_loop_lag_seconds",
        ):
            assert line.replace('le="16.0"', 'le="16"') in text or line in text, line
        for secret in (key, key[:9], live.admin[:9], "acme"):
            assert secret not in text


async def test_the_clients_own_timeouts_are_ours_to_keep(redis_url: str, tmp_path: Path) -> None:
    """The remaining time goes on to the service, so that it does not work for nobody."""
    async with serving(echo) as server, gateway(redis_url, tmp_path, {"vision": server.url}) as live:
        answer = await live.call("GET", "/v1/vision/x", headers={"lattice-timeout": "7.5"})
        assert "lattice-timeout: 7.500" in answer.json["head"]


async def test_the_client_pool_under_test_sees_kept_connections(redis_url: str, tmp_path: Path) -> None:
    async with serving(answers()) as server, gateway(redis_url, tmp_path, {"model": server.url}) as live:
        key = await live.new_key()
        client = HttpUpstream(live.url, breaker=None, timeouts=Timeouts(read=5))
        for _ in range(5):
            request = Request(
                "POST",
                "/v1/chat/completions",
                [(b"authorization", f"Bearer {key}".encode())],
                b'{"model": "default"}',
            )
            response = await client.open(request)
            await response.read_all(10_000)
        assert client.idle == 1
        assert server.connections == 1
        await client.close()
