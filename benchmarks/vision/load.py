"""The whole service under load: latency and throughput at 1, 8 and 32 clients.

Clients run in a process of their own and send a 1920 x 1080 JPEG as a raw body for a raw answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import aiohttp
import httpx

from benchmarks.vision.speed import photo_file
from shared.app import free_port
from shared.principal import Principal, PrincipalSigner

CLIENTS = (1, 8, 32)


@dataclass(frozen=True)
class LoadTimes:
    """Milliseconds and images per second at a number of clients."""

    clients: int
    requests: int
    p50: float
    p99: float
    per_second: float
    refused: int


@contextlib.contextmanager
def running_service() -> Iterator[tuple[str, str]]:
    """`python -m services.vision` on a free port; yields its address and a token."""
    secret, port = secrets.token_hex(32), free_port()
    environment = {
        **os.environ,
        "LATTICEWORK_PRINCIPAL_SECRET": secret,
        "LATTICEWORK_PORT": str(port),
        "LATTICEWORK_LOG_LEVEL": "error",
    }
    process = subprocess.Popen([sys.executable, "-m", "services.vision"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{url}/readyz", trust_env=False).status_code == 200:
                    break
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError("the service did not start")
            time.sleep(0.05)
        principal = Principal(key_id="key_load", tenant="load", scopes=frozenset({"vision"}))
        yield url, PrincipalSigner(secret).sign(principal, audience="vision", lifetime=3600)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


async def measure_load(url: str, token: str, clients: int, requests: int) -> LoadTimes:
    """`requests` in all, `clients` at a time, each waiting for its answer before the next."""
    data = photo_file("jpeg")
    headers = {
        "Authorization": f"Bearer {token}",
        "Content-Type": "image/jpeg",
        "Accept": "image/jpeg",
    }
    latencies: list[float] = []
    refused = 0
    left = iter(range(requests))

    async def one_client(session: aiohttp.ClientSession) -> None:
        nonlocal refused
        for _ in left:
            started = time.perf_counter()
            async with session.post(f"{url}/v1/vision/scaffold", data=data, headers=headers) as answer:
                await answer.read()
                if answer.status == 503:
                    refused += 1
                    await asyncio.sleep(float(answer.headers["Retry-After"]))
                    continue
                answer.raise_for_status()
            latencies.append(1000 * (time.perf_counter() - started))

    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector) as session:
        await one_client_warmup(session, url, data, headers)
        started = time.perf_counter()
        await asyncio.gather(*(one_client(session) for _ in range(clients)))
        elapsed = time.perf_counter() - started
    ranked = statistics.quantiles(latencies, n=100, method="inclusive")
    return LoadTimes(clients, len(latencies), ranked[49], ranked[98], len(latencies) / elapsed, refused)


async def one_client_warmup(
    session: aiohttp.ClientSession, url: str, data: bytes, headers: dict[str, str]
) -> None:
    """Both workers load their codecs and caches before anything is timed."""
    posts = [session.post(f"{url}/v1/vision/scaffold", data=data, headers=headers) for _ in range(4)]
    for answer in await asyncio.gather(*posts):
        answer.release()
