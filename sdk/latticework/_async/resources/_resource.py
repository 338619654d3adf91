"""What every resource is: some paths, and the client to call them with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latticework._async._client import AsyncClient


class AsyncResource:
    """Holds the client."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
