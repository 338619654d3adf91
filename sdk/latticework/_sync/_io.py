"""The few places where waiting and reading differ between the two clients. Written by hand."""

from __future__ import annotations

import time
from collections.abc import Iterator

from latticework._files import Upload


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def upload_chunks(upload: Upload) -> Iterator[bytes]:
    """The bytes of a file."""
    return upload.chunks()
