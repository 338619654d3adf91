"""Engines that are not models: a few lines each, made to start, die and stall on demand."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from services.model.engines.base import Capabilities, Engine, EngineStartFailed, EngineState
from services.model.engines.supervised import Launch, RestartPolicy, SupervisedEngine, get_text
from shared.app import free_port
from shared.upstream import Upstream

SERVER = """
import http.server, os, pathlib, sys, time
port, flags = int(sys.argv[1]), pathlib.Path(sys.argv[2])
if (flags / "broken").exists():
    print("ValueError: the weights are broken", flush=True)
    sys.exit(3)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if (flags / "silent").exists():
            time.sleep(60)
        self.send_response(200)
        body = str(os.getpid()).encode()
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""

QUICK = RestartPolicy(
    first=0.02, longest=0.1, attempts=3, settled=60, ready_within=10, probe_every=0.05, probes_missed=2
)


class ScriptedProcessEngine(SupervisedEngine):
    """A process that answers GETs. The files `broken` and `silent` in `flags` make it misbehave."""

    kind = "scripted"
    stop_seconds = 0.2

    def __init__(self, flags: Path, policy: RestartPolicy = QUICK) -> None:
        super().__init__(limit=2, policy=policy)
        self.flags = flags

    @property
    def models(self) -> Sequence[str]:
        return ("scripted",)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities()

    def prepare(self) -> Launch:
        port = free_port()
        command = (sys.executable, "-c", SERVER, str(port), str(self.flags))
        return Launch(command, f"http://127.0.0.1:{port}")

    async def answers(self, client: Upstream) -> bool:
        async with asyncio.timeout(0.3):
            status, _ = await get_text(client, "/")
        return status == 200

    async def _is_up(self, client: Upstream) -> bool:
        try:
            return await super()._is_up(client)
        except TimeoutError:
            return False


class ScriptedEngine(Engine):
    """An engine of no process: starts when told to, or fails."""

    kind = "scripted"

    def __init__(self, *models: str, fails: str | None = None, limit: int = 8) -> None:
        super().__init__(limit=limit)
        self._models, self._fails = models, fails
        self.gate = asyncio.Event()
        self.gate.set()
        self.closed = False

    @property
    def models(self) -> Sequence[str]:
        return self._models

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(chat=True)

    async def start(self) -> None:
        self.state = EngineState.STARTING
        await self.gate.wait()
        if self._fails:
            self.state, self.reason = EngineState.FAILED, self._fails
            raise EngineStartFailed(self._fails)
        self.state = EngineState.READY

    async def close(self) -> None:
        self.closed = True
        self.state = EngineState.STOPPED
