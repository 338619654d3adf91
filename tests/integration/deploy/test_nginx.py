"""preloop #206: proxies in front cut streams at 60 s. Ours neither cuts nor buffers."""

from __future__ import annotations

import asyncio
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from shared.app import free_port

TEMPLATE = Path(__file__).parents[3] / "deploy" / "nginx.conf"


def seconds_of(directive: str) -> int:
    found = re.search(rf"{directive} (\d+)s;", TEMPLATE.read_text())
    assert found, directive
    return int(found[1])


def test_preloop_206_the_template_neither_buffers_nor_cuts_at_a_minute() -> None:
    text = TEMPLATE.read_text()
    assert "proxy_buffering off;" in text
    assert "proxy_request_buffering off;" in text
    assert min(seconds_of("proxy_read_timeout"), seconds_of("proxy_send_timeout")) >= 600


@pytest.fixture
async def stream_port() -> AsyncIterator[int]:
    """A server whose answer comes in three pieces, 0.3 s apart."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for index in range(3):
            piece = f"data: {index}\n\n".encode()
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0.3)
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        writer.close()

    port = free_port()
    server = await asyncio.start_server(answer, "127.0.0.1", port)
    yield port
    server.close()


async def test_preloop_206_nginx_passes_each_event_when_it_comes(stream_port: int, tmp_path: Path) -> None:
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin")
    if nginx is None:
        pytest.skip("nginx is not installed on this machine")
    port = free_port()
    site = TEMPLATE.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{stream_port}")
    site = site.replace("listen 443 ssl", f"listen 127.0.0.1:{port}")
    site = re.sub(r"\n\s*ssl_\w+ [^;]+;", "", site)
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        "events {}\n"
        f"http {{ access_log off; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
        f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n"
        f"{site}\n}}\n"
    )
    process = await asyncio.create_subprocess_exec(
        nginx, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")
    )
    try:
        arrivals = await _arrivals(f"http://127.0.0.1:{port}/")
    finally:
        process.terminate()
        await process.wait()
    assert len(arrivals) == 3
    assert arrivals[1] - arrivals[0] > 0.15
    assert arrivals[2] - arrivals[1] > 0.15


async def _arrivals(url: str) -> list[float]:
    async with httpx.AsyncClient(trust_env=False) as client:
        for _ in range(100):
            try:
                async with client.stream("GET", url) as response:
                    return [time.monotonic() async for _ in response.aiter_raw()]
            except httpx.ConnectError:
                await asyncio.sleep(0.05)
    raise AssertionError("nginx did not come up")
