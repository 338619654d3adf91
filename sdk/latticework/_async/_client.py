"""The client: sends calls, with retries, and offers the resources."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import httpx2

from latticework._async._closing import AsyncClosing
from latticework._async._io import sleep, upload_chunks
from latticework._async.resources.artifacts import AsyncArtifacts
from latticework._async.resources.chat import AsyncChat
from latticework._async.resources.jobs import AsyncJobs
from latticework._async.resources.keys import AsyncBudgets, AsyncKeys, AsyncUsageReports
from latticework._async.resources.models import AsyncEngines, AsyncModels
from latticework._async.resources.sql import AsyncSql
from latticework._async.resources.vision import AsyncVision
from latticework._base_client import BaseClient, check_redirect, decode, last_response, status_error
from latticework._calls import Call
from latticework._config import RetryPolicy, Timeouts
from latticework._exceptions import LatticeworkError, StatusError, TransportError
from latticework._raw import RawResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import openai

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class AsyncClient(BaseClient, AsyncClosing):
    """A client of one Latticework suite.

    Args:
        url: address; else `LATTICEWORK_URL`, else that of the local suite found upwards.
        key: `lw_...`; else `LATTICEWORK_KEY`, else the development key of the local suite.
        timeouts: the four timeouts of every call.
        retries: how often and how long to try again.
        headers: sent with every call.
        transport: instead of the network, for tests and special proxies.

    Raises:
        ConfigurationError: no address or no key is known.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        retries: RetryPolicy | None = None,
        headers: Mapping[str, str] | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, key, timeouts=timeouts, retries=retries, headers=headers)
        self._http = httpx2.AsyncClient(transport=transport, trust_env=self._trust_env)
        self.chat = AsyncChat(self)
        self.models = AsyncModels(self)
        self.engines = AsyncEngines(self)
        self.artifacts = AsyncArtifacts(self)
        self.jobs = AsyncJobs(self)
        self.keys = AsyncKeys(self)
        self.budgets = AsyncBudgets(self)
        self.usage = AsyncUsageReports(self)
        self.sql = AsyncSql(self)
        self.vision = AsyncVision(self)

    async def close(self) -> None:
        """Close every connection."""
        await self._http.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """Call any path of the API and get its parsed JSON: for what has no method of its own here.

        Raises:
            StatusError: the suite refused or failed.
            TransportError: no complete answer came.
        """
        call = Call(method.upper(), path, parameters or {}, body=json, idempotency_key=idempotency_key)
        response = await self.send(call)
        return response.json() if response.content else None

    async def with_raw_response(
        self,
        method: Callable[Arguments, Awaitable[Result]],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> RawResponse[Result]:
        """Call `method` and keep its response: `client.with_raw_response(client.keys.create, name="ci")`."""
        responses: list[httpx2.Response] = []
        token = last_response.set(responses)
        try:
            result = await method(*args, **kwargs)
        finally:
            last_response.reset(token)
        return RawResponse(result, responses)

    @cached_property
    def openai(self) -> openai.AsyncOpenAI:
        """A stock OpenAI client that talks to this suite through the connections of this client."""
        import openai

        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=self._connection.key,
            max_retries=self.retries.max_retries,
            timeout=self._httpx_timeout(),
            http_client=self._http,
        )

    async def fetch(self, call: Call, kind: type[Result]) -> Result:
        """Send and parse the answer as `kind`."""
        return decode(await self.send(call), kind)

    async def send(self, call: Call) -> httpx2.Response:
        """Send, with retries, and read the whole answer, which is a success."""
        return await self._send(call, read=True)

    @asynccontextmanager
    async def open(self, call: Call) -> AsyncIterator[httpx2.Response]:
        """Send, with retries, and hand out the successful response unread; it is closed on leaving."""
        response = await self._send(call, read=False)
        try:
            yield response
        finally:
            await response.aclose()

    async def chunks(self, response: httpx2.Response, size: int) -> AsyncIterator[bytes]:
        """The body of an open response, piece by piece."""
        try:
            async for chunk in response.aiter_bytes(size):
                yield chunk
        except httpx2.TransportError as error:
            raise self._transport_error(error) from error

    async def _send(self, call: Call, *, read: bool) -> httpx2.Response:
        attempt = 0
        try:
            while True:
                try:
                    return await self._try(call, read=read)
                except StatusError as error:
                    pause = self._pause_after_status(call, error, attempt)
                    if pause is None:
                        raise
                except TransportError as error:
                    pause = self._pause_after_break(call, error, attempt)
                    if pause is None:
                        raise
                attempt += 1
                await sleep(pause)
                call.rewind()
        finally:
            call.close()

    async def _try(self, call: Call, *, read: bool) -> httpx2.Response:
        arguments = self._request_arguments(call)
        if call.content is not None:
            arguments["content"] = upload_chunks(call.content)
        try:
            response = await self._http.send(self._http.build_request(**arguments), stream=True)
            collected = last_response.get()
            if collected is not None:
                collected.append(response)
            if response.is_success and not read:
                return response
            try:
                await response.aread()
            finally:
                await response.aclose()
        except httpx2.TransportError as error:
            raise self._transport_error(error) from error
        if not response.is_success:
            check_redirect(response)
            raise status_error(response)
        return response

    async def readiness(self) -> dict[str, Any]:
        """What the suite says of its readiness.

        Raises:
            ServiceUnavailable: it is not ready; `document` says what is missing.
        """
        return decode(await self.send(self._readiness_call()), dict[str, Any])

    async def is_ready(self, patience: float = 0.0) -> bool:
        """Whether the suite says that it can do its work, waiting for that up to `patience` seconds."""
        deadline = time.monotonic() + patience
        while True:
            try:
                await self.readiness()
            except LatticeworkError:
                if time.monotonic() >= deadline:
                    return False
                await sleep(0.2)
            else:
                return True
