# Generated from latticework/_async/_closing.py by sdk/generate.py; do not edit.
"""What is closed when its `with` block ends."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """Gives `with` to whatever has a `close`."""

    def close(self) -> None:
        """Let go of everything held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
