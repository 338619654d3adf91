# Generated from latticework/_async/_client.py by sdk/generate.py; do not edit.
"""The client: sends calls, with retries, and offers the resources."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import httpx2

from latticework._base_client import BaseClient, check_redirect, decode, last_response, status_error
from latticework._calls import Call
from latticework._config import RetryPolicy, Timeouts
from latticework._exceptions import LatticeworkError, StatusError, TransportError
from latticework._raw import RawResponse
from latticework._sync._closing import Closing
from latticework._sync._io import sleep, upload_chunks
from latticework._sync.resources.artifacts import Artifacts
from latticework._sync.resources.chat import Chat
from latticework._sync.resources.jobs import Jobs
from latticework._sync.resources.keys import Budgets, Keys, UsageReports
from latticework._sync.resources.models import Engines, Models
from latticework._sync.resources.sql import Sql
from latticework._sync.resources.vision import Vision

if TYPE_CHECKING:
    from collections.abc import Iterator

    import openai

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class Client(BaseClient, Closing):
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
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, key, timeouts=timeouts, retries=retries, headers=headers)
        self._http = httpx2.Client(transport=transport, trust_env=self._trust_env)
        self.chat = Chat(self)
        self.models = Models(self)
        self.engines = Engines(self)
        self.artifacts = Artifacts(self)
        self.jobs = Jobs(self)
        self.keys = Keys(self)
        self.budgets = Budgets(self)
        self.usage = UsageReports(self)
        self.sql = Sql(self)
        self.vision = Vision(self)

    def close(self) -> None:
        """Close every connection."""
        self._http.close()

    def request(
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
        response = self.send(call)
        return response.json() if response.content else None

    def with_raw_response(
        self,
        method: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> RawResponse[Result]:
        """Call `method` and keep its response: `client.with_raw_response(client.keys.create, name="ci")`."""
        responses: list[httpx2.Response] = []
        token = last_response.set(responses)
        try:
            result = method(*args, **kwargs)
        finally:
            last_response.reset(token)
        return RawResponse(result, responses)

    @cached_property
    def openai(self) -> openai.OpenAI:
        """A stock OpenAI client that talks to this suite through the connections of this client."""
        import openai

        return openai.OpenAI(
            base_url=f"{self.url}/v1",
            api_key=self._connection.key,
            max_retries=self.retries.max_retries,
            timeout=self._httpx_timeout(),
            http_client=self._http,
        )

    def fetch(self, call: Call, kind: type[Result]) -> Result:
        """Send and parse the answer as `kind`."""
        return decode(self.send(call), kind)

    def send(self, call: Call) -> httpx2.Response:
        """Send, with retries, and read the whole answer, which is a success."""
        return self._send(call, read=True)

    @contextmanager
    def open(self, call: Call) -> Iterator[httpx2.Response]:
        """Send, with retries, and hand out the successful response unread; it is closed on leaving."""
        response = self._send(call, read=False)
        try:
            yield response
        finally:
            response.close()

    def chunks(self, response: httpx2.Response, size: int) -> Iterator[bytes]:
        """The body of an open response, piece by piece."""
        try:
            yield from response.iter_bytes(size)
        except httpx2.TransportError as error:
            raise self._transport_error(error) from error

    def _send(self, call: Call, *, read: bool) -> httpx2.Response:
        attempt = 0
        try:
            while True:
                try:
                    return self._try(call, read=read)
                except StatusError as error:
                    pause = self._pause_after_status(call, error, attempt)
                    if pause is None:
                        raise
                except TransportError as error:
                    pause = self._pause_after_break(call, error, attempt)
                    if pause is None:
                        raise
                attempt += 1
                sleep(pause)
                call.rewind()
        finally:
            call.close()

    def _try(self, call: Call, *, read: bool) -> httpx2.Response:
        arguments = self._request_arguments(call)
        if call.content is not None:
            arguments["content"] = upload_chunks(call.content)
        try:
            response = self._http.send(self._http.build_request(**arguments), stream=True)
            collected = last_response.get()
            if collected is not None:
                collected.append(response)
            if response.is_success and not read:
                return response
            try:
                response.read()
            finally:
                response.close()
        except httpx2.TransportError as error:
            raise self._transport_error(error) from error
        if not response.is_success:
            check_redirect(response)
            raise status_error(response)
        return response

    def readiness(self) -> dict[str, Any]:
        """What the suite says of its readiness.

        Raises:
            ServiceUnavailable: it is not ready; `document` says what is missing.
        """
        return decode(self.send(self._readiness_call()), dict[str, Any])

    def is_ready(self, patience: float = 0.0) -> bool:
        """Whether the suite says that it can do its work, waiting for that up to `patience` seconds."""
        deadline = time.monotonic() + patience
        while True:
            try:
                self.readiness()
            except LatticeworkError:
                if time.monotonic() >= deadline:
                    return False
                sleep(0.2)
            else:
                return True
