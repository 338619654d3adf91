# Generated from latticework/_async/resources/_resource.py by sdk/generate.py; do not edit.
"""What every resource is: some paths, and the client to call them with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from latticework._sync._client import Client


class Resource:
    """Holds the client."""

    def __init__(self, client: Client) -> None:
        self._client = client
