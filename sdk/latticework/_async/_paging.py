"""Lists that fetch their pages as they are read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Generic, TypeVar

from latticework._calls import Call
from latticework._paging import Page

if TYPE_CHECKING:
    from latticework._async._client import AsyncClient

Item = TypeVar("Item")


class AsyncPages(Generic[Item]):
    """All items of a list, newest first; nothing is asked before the first one is read."""

    def __init__(self, client: AsyncClient, call: Call, item: type[Item]) -> None:
        self._client = client
        self._call = call
        self._item = item

    async def __aiter__(self) -> AsyncIterator[Item]:
        async for page in self.pages():
            for item in page.data:
                yield item

    async def pages(self) -> AsyncIterator[Page[Item]]:
        """The pages, one request each."""
        call = self._call
        while True:
            page = await self._fetch(call)
            yield page
            if page.next is None:
                return
            call = call.with_parameters({"cursor": page.next})

    async def first(self) -> Page[Item]:
        """Only the first page."""
        return await self._fetch(self._call)

    async def take(self, count: int) -> list[Item]:
        """At most `count` items."""
        items: list[Item] = []
        if count <= 0:
            return items
        async for item in self:
            items.append(item)
            if len(items) == count:
                break
        return items

    async def _fetch(self, call: Call) -> Page[Item]:
        # The item is known only at run time, which is what pydantic's generics are made for.
        page: Page[Item] = await self._client.fetch(call, Page[self._item])  # type: ignore[name-defined]
        return page
