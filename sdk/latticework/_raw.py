"""The HTTP side of an answer, for those who need a header."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import httpx2

from latticework._constants import REQUEST_ID_HEADER

Result = TypeVar("Result")


class RawResponse(Generic[Result]):
    """What a method returned together with the response it came from."""

    def __init__(self, result: Result, responses: Sequence[httpx2.Response]) -> None:
        self.result = result
        self.http = responses[-1]
        self.tries = len(responses)

    @property
    def status(self) -> int:
        """HTTP status."""
        return self.http.status_code

    @property
    def headers(self) -> httpx2.Headers:
        """Response headers, case-insensitive."""
        return self.http.headers

    @property
    def request_id(self) -> str | None:
        """What support needs."""
        return self.headers.get(REQUEST_ID_HEADER)
