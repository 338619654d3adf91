"""Lists that fetch their pages as they are read."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from latticework import AsyncClient, AsyncPages, Client, Pages
from latticework._calls import get
from tests.integration.sdk.server import ScriptedServer


async def page(request: Request) -> Response:
    start = int(request.query_params.get("cursor", "0"))
    assert request.query_params["limit"] == "3"
    data = list(range(start, min(start + 3, 8)))
    return JSONResponse({"data": data, "next": str(start + 3) if start + 3 < 8 else None})


def test_items_over_all_pages(server: ScriptedServer, client: Client) -> None:
    server.on("GET", "/v1/numbers", page)
    numbers = Pages(client, get("/v1/numbers", limit=3), int)
    assert server.requests == []
    assert list(numbers) == list(range(8))
    assert [len(one.data) for one in numbers.pages()] == [3, 3, 2]
    assert list(numbers) == list(range(8))


def test_only_what_is_needed_is_fetched(server: ScriptedServer, client: Client) -> None:
    server.on("GET", "/v1/numbers", page)
    numbers = Pages(client, get("/v1/numbers", limit=3), int)
    assert numbers.take(4) == [0, 1, 2, 3]
    assert len(server.requests) == 2
    assert numbers.take(0) == []
    assert numbers.first().next == "3"


async def test_async_items(server: ScriptedServer, async_client: AsyncClient) -> None:
    server.on("GET", "/v1/numbers", page)
    numbers = AsyncPages(async_client, get("/v1/numbers", limit=3), int)
    assert [number async for number in numbers] == list(range(8))
    assert await numbers.take(2) == [0, 1]
