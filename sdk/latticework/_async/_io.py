"""The few places where waiting and reading differ between the two clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from latticework._files import Upload


async def sleep(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


async def upload_chunks(upload: Upload) -> AsyncIterator[bytes]:
    """The bytes of a file; the disk is read in a thread."""
    chunks = upload.chunks()
    while (chunk := await asyncio.to_thread(next, chunks, b"")) != b"":
        yield chunk
