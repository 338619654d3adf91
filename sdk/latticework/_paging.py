"""One page of a list, as the suite sends it."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """Some items, and the cursor of the next page (None: this is the last one)."""

    data: list[Item]
    next: str | None = None
