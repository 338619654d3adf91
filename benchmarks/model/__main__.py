"""`python -m benchmarks.model`: start, memory, speed, and the service beside its bare engine.

The service runs as a process of its own with one thread for each local engine. Chat is measured
through the service and directly at the port of the engine it runs, in turns within one run; what
differs is what the service costs. Prints a table and writes results/model.json.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from services.model.engines.llamacpp import LlamaCppEngine
from services.model.engines.specs import LlamaCppSpec
from services.model.protocol.grammar import schema_grammar
from shared.app import free_port
from shared.principal import Principal, PrincipalSigner

SECRET = "the-secret-of-the-benchmark-0123456789"
MODEL = "smollm2-135m-instruct"
PROMPT = "Explain why the sky is blue, and why it turns red in the evening. " * 2
TOKENS = 32
ROUNDS = 5
CLIENTS = 8
RESULTS = Path(__file__).parent / "results"
#: llama.cpp now and then closes a connection after a stream without saying so. The service's own
#: client repeats such a call; to keep the comparison even, neither way reuses connections here.
LIMITS = httpx.Limits(max_keepalive_connections=0)
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
    },
    "required": ["name", "tags", "score"],
}


@dataclass
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class Place:
    """Somewhere to send requests, and what to say to be let in."""

    name: str
    client: httpx.AsyncClient


async def main_async() -> list[Figure]:
    figures: list[Figure] = []
    async with service() as (place, process, seconds):
        figures.append(Figure("service and both engines ready, second start", seconds, "s"))
        llama = next(child for child in process.children() if "llamacpp" in " ".join(child.cmdline()))
        figures.append(Figure("memory of the service with the encoder", _megabytes(process), "MB"))
        figures.append(Figure("memory of llama.cpp, 4 slots of 8192 tokens", _megabytes(llama), "MB"))
        figures += await embedding_figures(place)
    figures += await chat_figures()
    figures.append(Figure("compile a schema to a grammar, not cached", _compile_seconds() * 1e3, "ms"))
    return figures


@asynccontextmanager
async def service(**extra: str) -> AsyncIterator[tuple[Place, psutil.Process, float]]:
    """A running service; its home is used once before, so that the encoder's graph is there."""
    home = RESULTS / "home"
    await _once(home)
    port = free_port()
    started = time.perf_counter()
    process = _start(home, port, extra)
    try:
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=120, limits=LIMITS
        ) as client:
            await _ready(client)
            seconds = time.perf_counter() - started
            signer = PrincipalSigner(SECRET)
            principal = Principal("key_bench", "bench", frozenset({"admin"}))
            token = signer.sign(principal, audience="model", lifetime=3600)
            client.headers["Authorization"] = f"Bearer {token}"
            yield Place("through the service", client), psutil.Process(process.pid), seconds
    finally:
        process.terminate()
        process.wait(30)


async def _once(home: Path) -> None:
    if (home / "model").is_dir():
        return
    port = free_port()
    process = _start(home, port, {})
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await _ready(client)
    process.terminate()
    process.wait(30)


def _start(home: Path, port: int, extra: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "services.model"], env=_environment(home, port) | extra)


def _environment(home: Path, port: int) -> dict[str, str]:
    return os.environ | {
        "LATTICEWORK_HOME": str(home),
        "LATTICEWORK_PORT": str(port),
        "LATTICEWORK_PRINCIPAL_SECRET": SECRET,
        "LATTICEWORK_MODEL_THREADS": "1",
        "LATTICEWORK_LOG_LEVEL": "error",
    }


async def _ready(client: httpx.AsyncClient) -> None:
    for _ in range(600):
        try:
            if (await client.get("/readyz")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.05)
    raise SystemExit("the service did not get ready")


async def embedding_figures(place: Place) -> list[Figure]:
    """Latency of one text, and texts a second in requests of 64."""
    texts = [f"just one short text about the weather in Paris today, number {index}" for index in range(64)]

    async def embed(inputs: list[str]) -> None:
        body = {"model": "embed", "input": inputs, "encoding_format": "base64"}
        (await place.client.post("/v1/embeddings", json=body)).raise_for_status()

    await embed(texts)
    single = await _median(lambda: embed(texts[:1]), 30)
    batch = await _median(lambda: embed(texts), 5)
    return [
        Figure("embed one text of 16 tokens", single * 1e3, "ms"),
        Figure("embed texts in requests of 64", 64 / batch, "texts/s"),
    ]


async def chat_figures() -> list[Figure]:
    """First token and decoding, directly and through the service, one client and several, in turns."""
    engine = LlamaCppEngine(LlamaCppSpec(model=MODEL, slots=CLIENTS, context_length=1024, threads=1))
    started = time.perf_counter()
    await engine.start()
    start_seconds = time.perf_counter() - started
    key = engine.headers[0][1].decode()
    # The service calls the very same engine process, as a hosted model.
    hosted = {
        "kind": "upstream", "base_url": f"{engine.base_url}/v1", "models": ["direct"],
        "key_variable": "LATTICEWORK_MODEL_KEY_BENCH",
    }  # fmt: skip
    engines = json.dumps([{"id": "engine_direct", "spec": hosted, "aliases": ["default"]}])
    extra = {"LATTICEWORK_MODEL_ENGINES": engines, "LATTICEWORK_MODEL_KEY_BENCH": key.removeprefix("Bearer ")}
    figures = [Figure("llama.cpp alone, start to ready", start_seconds, "s")]
    try:
        async with (
            service(**extra) as (through, _, _),
            httpx.AsyncClient(base_url=engine.base_url, timeout=120, limits=LIMITS) as client,
        ):
            client.headers["Authorization"] = key
            direct = Place("directly at the engine", client)
            await _chat(direct, 0)
            timings: dict[str, list[tuple[float, float]]] = {direct.name: [], through.name: []}
            for round_number in range(ROUNDS):
                order = [direct, through] if round_number % 2 else [through, direct]
                for place in order:
                    timings[place.name].append(await _chat(place, round_number))
            for name, taken in timings.items():
                first = statistics.median(first for first, _ in taken)
                speed = statistics.median((TOKENS - 1) / (total - first) for first, total in taken)
                figures.append(Figure(f"first token, one client, {name}", first * 1e3, "ms"))
                figures.append(Figure(f"decoding, one client, {name}", speed, "tokens/s"))
            for place in (direct, through):
                begun = time.perf_counter()
                await asyncio.gather(*(_chat(place, 100 + index) for index in range(CLIENTS)))
                speed = CLIENTS * TOKENS / (time.perf_counter() - begun)
                figures.append(
                    Figure(f"decoding, {CLIENTS} clients together, {place.name}", speed, "tokens/s")
                )
    finally:
        await engine.close()
    return figures


async def _chat(place: Place, salt: int) -> tuple[float, float]:
    """Seconds to the first token and to the end of one stream."""
    body = {
        "model": "default",
        # Another beginning each time: nothing of the prompt is cached.
        "messages": [{"role": "user", "content": f"{random.random()} {salt} {PROMPT}"}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
    }
    begun = time.perf_counter()
    first = 0.0
    async with place.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if not first and '"content":"' in line:
                first = time.perf_counter() - begun
    return first, time.perf_counter() - begun


async def _median(work: Callable[[], Awaitable[None]], times: int) -> float:
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        await work()
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _compile_seconds() -> float:
    taken = []
    for index in range(50):
        begun = time.perf_counter()
        schema_grammar({**SCHEMA, "title": str(index)}, 500 + index)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def _megabytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 1e6


def main() -> None:
    """Measure, print, write."""
    figures = asyncio.run(main_async())
    print("\n| what | figure |\n| --- | --- |")
    for figure in figures:
        digits = 1 if figure.value >= 10 else 2
        print(f"| {figure.name} | {figure.value:.{digits}f} {figure.unit} |")
    RESULTS.mkdir(exist_ok=True)
    load = os.getloadavg()[0]
    content = {"cores": os.cpu_count(), "load": load, "figures": [asdict(figure) for figure in figures]}
    (RESULTS / "model.json").write_text(json.dumps(content, indent=2))
    print(f"\n{os.cpu_count()} cores, load average {load:.1f} at the end")


if __name__ == "__main__":
    main()
