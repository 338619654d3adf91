# Generated from latticework/_async/_paging.py by sdk/generate.py; do not edit.
"""Lists that fetch their pages as they are read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from latticework._calls import Call
from latticework._paging import Page

if TYPE_CHECKING:
    from latticework._sync._client import Client

Item = TypeVar("Item")


class Pages(Generic[Item]):
    """All items of a list, newest first; nothing is asked before the first one is read."""

    def __init__(self, client: Client, call: Call, item: type[Item]) -> None:
        self._client = client
        self._call = call
        self._item = item

    def __iter__(self) -> Iterator[Item]:
        for page in self.pages():
            yield from page.data

    def pages(self) -> Iterator[Page[Item]]:
        """The pages, one request each."""
        call = self._call
        while True:
            page = self._fetch(call)
            yield page
            if page.next is None:
                return
            call = call.with_parameters({"cursor": page.next})

    def first(self) -> Page[Item]:
        """Only the first page."""
        return self._fetch(self._call)

    def take(self, count: int) -> list[Item]:
        """At most `count` items."""
        items: list[Item] = []
        if count <= 0:
            return items
        for item in self:
            items.append(item)
            if len(items) == count:
                break
        return items

    def _fetch(self, call: Call) -> Page[Item]:
        # The item is known only at run time, which is what pydantic's generics are made for.
        page: Page[Item] = self._client.fetch(call, Page[self._item])  # type: ignore[name-defined]
        return page
