"""What both clients share: how a call becomes a request, and what an outcome means. No I/O here."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeVar, cast

import httpx2
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from latticework._calls import Call
from latticework._config import (
    Connection,
    RetryPolicy,
    Timeouts,
    is_loopback,
    resolve,
    retry_after_seconds,
)
from latticework._constants import IDEMPOTENCY_HEADER, PROBE_TIMEOUT
from latticework._events import parse
from latticework._exceptions import (
    ConfigurationError,
    Interrupted,
    NotRunning,
    RequestTimeout,
    StatusError,
    TransportError,
    UnexpectedResponse,
    problem_from,
)
from latticework._version import __version__

Result = TypeVar("Result")

USER_AGENT = f"latticework-python/{__version__} (Python {platform.python_version()})"

# The server did none of the work when it answers so.
_REFUSED = frozenset({429, 503})
# It may have done it: repeat only what is safe to repeat.
_UNKNOWN = frozenset({408, 502, 504})
# Waiting does not fill an empty purse.
_FINAL_CODES = frozenset({"budget_exceeded", "insufficient_quota"})

last_response: ContextVar[list[httpx2.Response] | None] = ContextVar("last_response", default=None)
"""Where `with_raw_response` collects the responses of the call it wraps."""


class BaseClient:
    """Configuration and decisions, shared by `Client` and `AsyncClient`."""

    def __init__(
        self,
        url: str | None,
        key: str | None,
        *,
        timeouts: Timeouts | None,
        retries: RetryPolicy | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        self._connection = resolve(url, key)
        self.timeouts = timeouts or Timeouts()
        self.retries = retries or RetryPolicy()
        self._headers = dict(headers or {})
        # A proxy of the environment cannot reach a suite on this machine.
        self._trust_env = not is_loopback(self._connection.url)

    @property
    def url(self) -> str:
        """The address of the suite, without `/v1`."""
        return self._connection.url

    @property
    def connection(self) -> Connection:
        """Address and key, and where they were found."""
        return self._connection

    def _readiness_call(self) -> Call:
        return Call("GET", "/readyz", timeouts=replace(self.timeouts, read=PROBE_TIMEOUT))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(url={self.url!r})"

    def _request_arguments(self, call: Call) -> dict[str, Any]:
        """Arguments for building the HTTP request, but for a streamed body."""
        headers = {
            "Authorization": f"Bearer {self._connection.key}",
            "User-Agent": USER_AGENT,
            "Accept": call.accept,
            **self._headers,
            **call.headers,
        }
        if call.idempotency_key:
            headers[IDEMPOTENCY_HEADER] = call.idempotency_key
        arguments: dict[str, Any] = {
            "method": call.method,
            "url": self.url + call.path,
            "params": _query(call.parameters),
            "headers": headers,
            "timeout": self._httpx_timeout(call.timeouts),
        }
        if call.uploads:
            arguments["files"] = [
                (field, (upload.name, upload.file, upload.media_type)) for field, upload in call.uploads
            ]
            arguments["data"] = dict(call.form)
        elif call.content is not None:
            headers.setdefault("Content-Type", call.content.media_type)
            size = call.content.size
            if size is not None:
                headers["Content-Length"] = str(size)
        elif call.body is not None:
            arguments["json"] = to_jsonable_python(call.body)
        return arguments

    def _httpx_timeout(self, timeouts: Timeouts | None = None) -> httpx2.Timeout:
        chosen = timeouts or self.timeouts
        return httpx2.Timeout(connect=chosen.connect, read=chosen.read, write=chosen.write, pool=chosen.pool)

    def _pause_after_status(self, call: Call, error: StatusError, attempt: int) -> float | None:
        """Seconds until the next try after an error answer, or None when the error stands."""
        if error.code in _FINAL_CODES or error.headers.get("x-should-retry") == "false":
            return None
        repeat = error.status in _REFUSED and call.can_be_resent
        repeat = repeat or (error.status in _UNKNOWN and call.safe_to_repeat)
        return self.retries.delay(attempt, error.retry_after) if repeat else None

    def _pause_after_break(self, call: Call, error: TransportError, attempt: int) -> float | None:
        """Seconds until the next try after a broken transport, or None when the error stands."""
        never_sent = isinstance(error, NotRunning)
        if not (call.can_be_resent if never_sent else call.safe_to_repeat):
            return None
        return self.retries.delay(attempt)

    def _transport_error(self, error: httpx2.TransportError) -> TransportError | ConfigurationError:
        """Our exception for one of the HTTP library."""
        if isinstance(error, httpx2.ConnectTimeout | httpx2.ConnectError):
            return NotRunning(f"Nothing answers at {self.url}.")
        if isinstance(error, httpx2.TimeoutException):
            name = type(error).__name__.removesuffix("Timeout").lower()
            return RequestTimeout(f"The {name} timeout passed while talking to {self.url}.")
        if isinstance(error, httpx2.UnsupportedProtocol | httpx2.LocalProtocolError):
            return ConfigurationError(f"The request cannot be sent: {error}.")
        return Interrupted(f"The connection to {self.url} broke: {error or type(error).__name__}.")


def status_error(response: httpx2.Response) -> StatusError:
    """The exception for a response, already read, that is no success."""
    try:
        body: object = json.loads(response.content)
    except ValueError:
        body = response.text
    return problem_from(
        body,
        status=response.status_code,
        headers=response.headers,
        retry_after=retry_after_seconds(response.headers),
    )


def check_redirect(response: httpx2.Response) -> None:
    """The suite never redirects: somebody else answers there.

    Raises:
        UnexpectedResponse: the response is a redirect.
    """
    if response.status_code < 400:
        where = response.headers.get("location", "elsewhere")
        raise UnexpectedResponse(
            f"{response.request.url} answers {response.status_code} and points to {where}; "
            "is the address right?"
        )


@lru_cache(maxsize=256)
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def decode(response: httpx2.Response, kind: type[Result]) -> Result:
    """The body as `kind`.

    Raises:
        UnexpectedResponse: the body is not what the API promises.
    """
    result: Result = parse(_adapter(cast(Any, kind)), response.content)
    return result


def _query(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in parameters.items():
        values = value if isinstance(value, list | tuple) else [value]
        pairs += [(name, _query_value(one)) for one in values if one is not None]
    return pairs


def _query_value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
