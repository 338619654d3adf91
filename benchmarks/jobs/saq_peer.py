"""SAQ doing the same, run by an interpreter that has it: `python saq_peer.py worker|throughput|latency ...`.

A file that stands alone: it is run in an environment of its own and imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from saq import Queue, Worker  # type: ignore[import-not-found, unused-ignore]


async def noop(_context: dict[str, Any]) -> dict[str, float]:
    """Say when it began."""
    return {"at": time.time()}


async def throughput(queue: Any, count: int) -> float:
    """Jobs per second from the first enqueue to the last result."""
    begun = time.perf_counter()

    async def some(number: int) -> None:
        for _ in range(number):
            await queue.enqueue("noop")

    await asyncio.gather(*(some(count // 4) for _ in range(4)))
    while await queue.count("incomplete"):
        await asyncio.sleep(0.01)
    return count / (time.perf_counter() - begun)


async def latency(queue: Any, count: int) -> list[float]:
    """Seconds from enqueue to start on an idle queue."""
    seconds = []
    for _ in range(count):
        await asyncio.sleep(0.1)
        begun = time.time()
        result = await queue.apply("noop")
        seconds.append(result["at"] - begun)
    return seconds


async def main() -> None:
    mode, url, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
    queue = Queue.from_url(url)
    await queue.connect()
    if mode == "worker":
        await Worker(queue, functions=[noop], concurrency=1).start()
    elif mode == "throughput":
        await throughput(queue, 40)
        print(json.dumps(await throughput(queue, count)))
    else:
        print(json.dumps(await latency(queue, count)))
    await queue.disconnect()


asyncio.run(main())
