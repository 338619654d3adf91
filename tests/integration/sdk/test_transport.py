"""Retries, timeouts, errors and uploads over a real connection."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
import socket
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

import latticework
from latticework import AsyncClient, Client, RetryPolicy, Timeouts
from latticework._calls import Call, create
from latticework._files import Upload
from tests.integration.sdk.conftest import KEY, QUICK, SHORT
from tests.integration.sdk.server import ScriptedServer, problem

BUSY = JSONResponse(problem(503, "unavailable"), status_code=503, headers={"Retry-After": "0.01"})
GATEWAY = JSONResponse(problem(502, "bad_gateway"), status_code=502)
FINE = JSONResponse({"fine": True})


def test_headers_of_every_call(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/things", FINE)
    assert client.request("get", "/v1/things", parameters={"a": 1, "b": None, "c": ["x", "y"]}) == {
        "fine": True
    }
    request = server.requests[0]
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["user-agent"].startswith("latticework-python/")
    assert request.url.query == "a=1&c=x&c=y"


def test_refused_work_is_tried_again(server: ScriptedServer, client: Client) -> None:
    server.answer("POST", "/v1/things", BUSY, BUSY, FINE)
    assert client.request("POST", "/v1/things", json={"a": 1}) == {"fine": True}
    assert len(server.requests) == 3


def test_retries_end(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/things", BUSY)
    with pytest.raises(latticework.ServiceUnavailable) as caught:
        client.request("GET", "/v1/things")
    assert len(server.requests) == 3
    assert caught.value.retry_after == 0.01


def test_unknown_outcome_of_a_post_is_not_repeated_without_a_key(
    server: ScriptedServer, client: Client
) -> None:
    server.answer("POST", "/v1/things", GATEWAY, FINE)
    with pytest.raises(latticework.ServerError):
        client.request("POST", "/v1/things", json={})
    assert len(server.requests) == 1


def test_idempotency_key_is_kept_over_retries(server: ScriptedServer, client: Client) -> None:
    server.answer("POST", "/v1/things", GATEWAY, BUSY, FINE)
    client.send(create("/v1/things", {"a": 1}))
    keys = [request.headers["idempotency-key"] for request in server.requests]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    client.send(create("/v1/things", {"a": 1}))
    assert server.requests[-1].headers["idempotency-key"] != keys[0]


def test_longer_retry_after_than_allowed_raises_at_once(server: ScriptedServer, client: Client) -> None:
    wait = JSONResponse(problem(429, "rate_limit_exceeded"), status_code=429, headers={"Retry-After": "3600"})
    server.answer("GET", "/v1/things", wait)
    with pytest.raises(latticework.TooManyRequests) as caught:
        client.request("GET", "/v1/things")
    assert caught.value.retry_after == 3600
    assert len(server.requests) == 1


def test_empty_purse_is_not_asked_twice(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/x", JSONResponse(problem(429, "budget_exceeded"), status_code=429))
    with pytest.raises(latticework.TooManyRequests):
        client.request("GET", "/v1/x")
    assert len(server.requests) == 1


def test_problem_becomes_an_exception_with_its_fields(server: ScriptedServer, client: Client) -> None:
    errors = [{"location": "body.rows", "message": "must be at most 26"}]
    document = problem(422, "invalid_options", "rows is too large", errors=errors)
    server.answer("POST", "/v1/things", JSONResponse(document, status_code=422))
    with pytest.raises(latticework.Unprocessable) as caught:
        client.request("POST", "/v1/things", json={})
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.status, error.code, error.title) == (422, "invalid_options", "A problem")
    assert error.type == "urn:latticework:problem:invalid_options"
    assert error.errors == (latticework.FieldError("body.rows", "must be at most 26"),)
    assert (error.instance, error.request_id) == ("/somewhere", "req_1")
    assert str(error) == "rows is too large (422, invalid_options, req_1)"


def test_openai_error_becomes_the_same_exception(server: ScriptedServer, client: Client) -> None:
    body = {
        "error": {
            "message": "no such model",
            "type": "invalid_request_error",
            "param": "model",
            "code": "model_not_found",
        }
    }
    answer = JSONResponse(body, status_code=404, headers={"X-Request-Id": "req_7"})
    server.answer("POST", "/v1/chat/completions", answer)
    with pytest.raises(latticework.NotFound) as caught:
        client.request("POST", "/v1/chat/completions", json={})
    assert caught.value.code == "model_not_found"
    assert caught.value.detail == "no such model"
    assert caught.value.errors[0].location == "model"
    assert caught.value.request_id == "req_7"


def test_page_of_a_proxy_in_between(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/x", Response("<html>" + "x" * 999, status_code=418, media_type="text/html"))
    with pytest.raises(latticework.StatusError, match="HTTP 418"):
        client.request("GET", "/v1/x")


def test_redirect_is_not_followed(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/x", RedirectResponse("http://elsewhere.example/"))
    with pytest.raises(latticework.UnexpectedResponse, match=r"elsewhere\.example"):
        client.request("GET", "/v1/x")


def test_answer_of_another_version(server: ScriptedServer, client: Client) -> None:
    server.answer("GET", "/v1/x", PlainTextResponse("not json"))
    with pytest.raises(latticework.UnexpectedResponse, match="different versions"):
        client.fetch(Call("GET", "/v1/x"), dict[str, int])


def test_nothing_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with Client(url, KEY, retries=QUICK) as client, pytest.raises(latticework.NotRunning, match=url):
            client.request("GET", "/v1/x")


def test_read_timeout_is_named(server: ScriptedServer) -> None:
    async def silent(request: Request) -> Response:
        await asyncio.sleep(1)
        return FINE

    server.on("POST", "/v1/x", silent)
    with Client(server.url, KEY, retries=QUICK, timeouts=Timeouts(read=0.1)) as client:
        with pytest.raises(latticework.RequestTimeout, match="read timeout"):
            client.request("POST", "/v1/x", json={})
    assert len(server.requests) == 1


def test_raw_response_is_one_accessor_away(server: ScriptedServer, client: Client) -> None:
    answer = JSONResponse({"fine": True}, headers={"X-Request-Id": "req_9"})
    server.answer("GET", "/v1/x", BUSY, answer)
    raw = client.with_raw_response(client.request, "GET", "/v1/x")
    assert raw.result == {"fine": True}
    assert (raw.status, raw.request_id, raw.tries) == (200, "req_9", 2)


async def test_async_client_is_the_same(server: ScriptedServer, async_client: AsyncClient) -> None:
    server.answer("GET", "/v1/x", BUSY, FINE)
    raw = await async_client.with_raw_response(async_client.request, "GET", "/v1/x")
    assert raw.result == {"fine": True}
    assert raw.tries == 2
    server.answer("GET", "/v1/x", JSONResponse(problem(403, "forbidden"), status_code=403))
    with pytest.raises(latticework.Forbidden):
        await async_client.request("GET", "/v1/x")


@pytest.mark.parametrize("size", [0, 10, 3 * 2**20])
def test_streamed_upload_is_rewound_for_a_retry(
    server: ScriptedServer, client: Client, tmp_path: Path, size: int
) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    path = tmp_path / "weights.bin"
    path.write_bytes(content)
    server.answer("PUT", "/v1/x", BUSY, FINE)
    client.send(Call("PUT", "/v1/x", content=Upload(path)))
    assert server.bodies == [content, content]
    assert server.requests[1].headers["content-length"] == str(size)
    assert server.requests[1].headers["content-type"] == "application/octet-stream"


async def test_async_upload(server: ScriptedServer, async_client: AsyncClient) -> None:
    content = b"0123456789" * 200_000
    server.answer("PUT", "/v1/x", BUSY, FINE)
    await async_client.send(Call("PUT", "/v1/x", content=Upload(content)))
    assert server.bodies == [content, content]


def test_multipart_upload_is_rewound_for_a_retry(server: ScriptedServer, client: Client) -> None:
    server.answer("POST", "/v1/x", BUSY, FINE)
    call = Call(
        "POST",
        "/v1/x",
        form={"options": json.dumps({"rows": 6})},
        uploads=[("image", Upload(b"PICTURE", name="a.png"))],
    )
    client.send(call)
    for body in server.bodies:
        assert b'name="image"; filename="a.png"\r\nContent-Type: image/png\r\n\r\nPICTURE\r\n' in body
        assert b'name="options"\r\n\r\n{"rows": 6}' in body


class Pipe(io.BytesIO):
    """A file that cannot be read twice."""

    def seekable(self) -> bool:
        return False


def test_pipe_is_sent_once(server: ScriptedServer, client: Client) -> None:
    server.answer("PUT", "/v1/x", BUSY, FINE)
    with pytest.raises(latticework.ServiceUnavailable):
        client.send(Call("PUT", "/v1/x", content=Upload(Pipe(b"once"))))
    assert server.bodies == [b"once"]


def test_broken_answer_is_read_again(client: Client, server: ScriptedServer) -> None:
    """An answer cut short is a broken connection, not a short answer."""

    async def cut(request: Request) -> Response:
        return Response(b"{", headers={"content-length": "100"})

    async def whole(request: Request) -> Response:
        return FINE

    server.on("GET", "/v1/x", cut, whole)
    assert client.request("GET", "/v1/x") == {"fine": True}


def test_waiting_for_a_suite_to_get_ready(server: ScriptedServer) -> None:
    server.answer("GET", "/readyz", GATEWAY, GATEWAY, FINE)
    with Client(server.url, KEY, retries=RetryPolicy(max_retries=0), timeouts=SHORT) as client:
        assert not client.is_ready()
        assert client.is_ready(patience=5)


def test_proxies_of_the_environment_are_for_the_outside(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    server.answer("GET", "/v1/x", FINE)
    with Client(server.url, KEY, retries=QUICK) as client:
        assert client.request("GET", "/v1/x") == {"fine": True}
    with Client("http://suite.invalid", KEY, retries=RetryPolicy(0)) as client:
        with pytest.raises(latticework.NotRunning):
            client.request("GET", "/v1/x")
