"""What is closed when its `with` block ends."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class AsyncClosing:
    """Gives `async with` to whatever has a `close`."""

    async def close(self) -> None:
        """Let go of everything held."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
