"""The two C programs of the gateway benchmark: the upstream is a correct one, the loader believes nobody."""

from __future__ import annotations

import json
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.gateway.measure import request_body
from benchmarks.gateway.processes import Cores, compile_native, start, wait_until
from shared.app import free_port

CHUNKS = 20
INTERVAL = 0.002
CORE = Cores.choose().rest

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return compile_native(tmp_path_factory.mktemp("native"))


@pytest.fixture(scope="module")
def upstream(binaries: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port, folder = free_port(), tmp_path_factory.mktemp("upstream")
    command = (binaries[0], str(port), str(CHUNKS), str(int(INTERVAL * 1e6)))
    process = start("upstream", command, core=CORE, folder=folder)
    url = f"http://127.0.0.1:{port}"
    wait_until(process, lambda: httpx.get(f"{url}/v1/models").status_code == 200, 5)
    yield url
    process.stop()


@pytest.fixture
def load(binaries: tuple[Path, Path], tmp_path: Path) -> Run:
    """The loader's report about a run against a port."""

    def run(port: int, stream: bool = False, headers: str = "", **options: int) -> dict[str, Any]:
        (tmp_path / "request").write_bytes(request_body(stream))
        (tmp_path / "headers").write_text(headers)
        given = {
            "port": port,
            "path": "/v1/chat/completions",
            "request": tmp_path / "request",
            "headers": tmp_path / "headers",
            "stream": int(stream),
            "markers": CHUNKS if stream else 1,
            **options,
        }
        command = [str(binaries[1]), *(f"{name}={value}" for name, value in given.items())]
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    return run


@contextmanager
def answering(*pieces: bytes, pause: float = 0.0, hang_up: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """A server that answers every request with these pieces, `pause` seconds apart."""
    seen: list[bytes] = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            while request := self.request.recv(65536):
                seen.append(request)
                for piece in pieces:
                    time.sleep(pause)
                    self.request.sendall(piece)
                if hang_up:
                    return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1], seen
        finally:
            server.shutdown()
            thread.join()


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def events(body: str) -> list[str]:
    return [event.removeprefix("data: ") for event in body.split("\n\n") if event]


class TestUpstream:
    def test_json(self, upstream: str) -> None:
        answer = httpx.post(f"{upstream}/v1/chat/completions", content=request_body(stream=False))
        assert answer.json()["usage"]["total_tokens"] == 42
        assert 430 < len(answer.content) < 470

    @pytest.mark.parametrize("usage", [False, True])
    def test_stream(self, upstream: str, usage: bool) -> None:
        body = json.loads(request_body(stream=True))
        if usage:
            body["stream_options"] = {"include_usage": True}
        arrivals, begun = [], time.perf_counter()
        text = ""
        with httpx.stream("POST", f"{upstream}/v1/chat/completions", json=body) as answer:
            for piece in answer.iter_text():
                arrivals.append(time.perf_counter() - begun)
                text += piece
        *chunks, done = events(text)
        assert done == "[DONE]"
        parsed = [json.loads(chunk) for chunk in chunks]
        words = [chunk["choices"][0]["delta"].get("content") for chunk in parsed if chunk["choices"]]
        assert words == [*(f"tok-{number:04d} " for number in range(CHUNKS)), None]
        usages = [chunk["usage"]["completion_tokens"] for chunk in parsed if not chunk["choices"]]
        assert usages == ([CHUNKS] if usage else [])
        assert arrivals[-1] >= CHUNKS * INTERVAL
        assert len(arrivals) > CHUNKS / 2  # Piece by piece, as far as this process kept up.

    def test_a_request_may_come_in_pieces_and_another_behind_it(self, upstream: str) -> None:
        body = request_body(stream=False)
        request = b"POST / HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        with socket.create_connection(("127.0.0.1", port_of(upstream))) as connection:
            connection.settimeout(5)
            for start_at in range(0, len(request), 97):
                connection.sendall(request[start_at : start_at + 97])
                time.sleep(0.001)
            connection.sendall(request + request)
            answer = b""
            while answer.count(b"HTTP/1.1 200 OK") < 3 or not answer.endswith(b"}"):
                answer += connection.recv(65536)

    def test_survives_clients_that_leave(self, upstream: str, load: Run) -> None:
        for _ in range(20):
            with httpx.stream("POST", f"{upstream}/", content=request_body(stream=True)):
                pass
        assert load(port_of(upstream), stream=True, requests=4, clients=4)["completed"] == 4


class TestLoader:
    def test_counts_a_window(self, upstream: str, load: Run) -> None:
        report = load(port_of(upstream), clients=4, warmup_ms=50, window_ms=200)
        assert report["errors"] == 0
        assert report["seconds"] == 0.2
        assert report["per_second"] * 0.2 == pytest.approx(report["latency_us"]["count"])
        assert report["completed"] > report["latency_us"]["count"]

    def test_streams(self, upstream: str, load: Run) -> None:
        report = load(port_of(upstream), stream=True, clients=3, requests=6, ramp_ms=20)
        assert (report["completed"], report["chunks"], report["errors"]) == (6, 6 * CHUNKS, 0)
        assert report["latency_us"]["p50"] >= CHUNKS * INTERVAL * 1e6
        assert report["first_chunk_us"]["p50"] < CHUNKS * INTERVAL * 1e6 / 2

    def test_sends_the_given_headers(self, load: Run) -> None:
        with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntok-") as (port, seen):
            load(port, requests=1, headers="authorization: Bearer lw_x\r\n")
        head, _, body = seen[0].partition(b"\r\n\r\n")
        assert b"\r\nauthorization: Bearer lw_x" in head
        assert f"content-length: {len(body)}".encode() in head
        assert json.loads(body)["model"] == "bench"

    def test_latency_is_the_servers(self, load: Run) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nto"
        with answering(head, b"k-", pause=0.02) as (port, _):
            report = load(port, requests=5)
        assert 40_000 <= report["latency_us"]["p50"] < 200_000

    def test_the_first_chunk_is_not_the_head(self, load: Run) -> None:
        pieces = (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"5\r\n: hi\n\r\n",
            b"8\r\ntok-tok-\r\n",
            b"6\r\n[DONE]\r\n0\r\n\r\n",
        )
        with answering(*pieces, pause=0.02) as (port, _):
            report = load(port, stream=True, requests=1, markers=2)
        assert report["errors"] == 0
        assert 60_000 <= report["first_chunk_us"]["p50"] < report["latency_us"]["p50"] - 15_000

    def test_reconnects_when_asked_to(self, load: Run) -> None:
        answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\ntok-"
        with answering(answer, hang_up=True) as (port, _):
            report = load(port, requests=3)
        assert (report["completed"], report["errors"], report["reconnects"]) == (3, 0, 3)

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (b"HTTP/1.1 500 X\r\ncontent-length: 4\r\n\r\ntok-", "status is not 200"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnone", "wrong number of chunks"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\ntok-tok-", "wrong number of chunks"),
            (b"HTTP/1.1 200 OK\r\n\r\ntok-", "framing is wrong"),
            (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntok-and more", "framing is wrong"),
            (
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\ntok-x\r\n0\r\n\r\n",
                "framing is wrong",
            ),
        ],
    )
    def test_calls_a_bad_answer_an_error(self, load: Run, answer: bytes, reason: str) -> None:
        with answering(answer) as (port, _):
            report = load(port, requests=1)
        assert (report["completed"], report["errors"]) == (0, 1)
        assert report["first_error"].startswith(reason)

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"8\r\ntok-tok-\r\n0\r\n\r\n", "stream without [DONE]"),
            (b"8\r\ntok-tok-\r\n", "answer was cut off"),
        ],
    )
    def test_a_stream_must_end_well(self, load: Run, body: bytes, reason: str) -> None:
        head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        with answering(head + body, hang_up=True) as (port, _):
            report = load(port, stream=True, requests=1, markers=2)
        assert report["first_error"].startswith(reason)

    def test_gives_up_on_a_silent_server(self, load: Run) -> None:
        with answering() as (port, _):
            report = load(port, requests=2, clients=2, limit_ms=200)
        assert report["errors"] == 2


def test_cpu_time_and_memory_of_a_process(tmp_path: Path) -> None:
    script = "import time\nblob = b'x' * 50_000_000\nend = time.process_time() + 0.3\n"
    script += "while time.process_time() < end: pass\nprint('spent', flush=True)\ntime.sleep(60)"
    process = start("spender", [sys.executable, "-c", script], core=CORE, folder=tmp_path)
    try:
        wait_until(process, lambda: "spent" in process.log.read_text(), 20)
        assert 0.28 <= process.cpu_seconds() < 2
        assert process.resident_bytes() > 50_000_000
    finally:
        process.stop()
    assert process.popen.returncode is not None
