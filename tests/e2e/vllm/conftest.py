"""A model service with a real vLLM behind it. The first use makes vLLM's environment (3.5 GB)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from services.model.engines.vllm_environment import prepare
from shared.app import free_port
from tests.conftest import SECRET
from tests.integration.model.conftest import RunningService

ROOT = Path(__file__).parents[3]
MODEL = "smollm2-vllm"
START_SECONDS = 600.0


def spec(folder: Path) -> dict[str, Any]:
    """A small model on the CPU; `gpu_memory` is, there, a share of the machine's memory."""
    return {
        "kind": "vllm", "model": MODEL, "path": str(folder), "dtype": "bfloat16", "context_length": 2048,
        "sequences": 8, "gpu_memory": 0.15, "tool_parser": "hermes", "eager": True,
    }  # fmt: skip


@pytest.fixture(scope="session")
def vllm_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The service with vLLM as its only engine, ready."""
    environment = prepare(Path(os.environ.get("LATTICEWORK_HOME", ROOT / ".latticework")))
    home = tmp_path_factory.mktemp("vllm")
    port = free_port()
    engines = [{"id": "engine_vllm", "spec": spec(environment.model), "aliases": ["default"]}]
    variables = os.environ | {
        "LATTICEWORK_HOME": str(home),
        "LATTICEWORK_PORT": str(port),
        "LATTICEWORK_PRINCIPAL_SECRET": SECRET,
        "LATTICEWORK_MODEL_ENGINES": json.dumps(engines),
        "LATTICEWORK_MODEL_VLLM_PYTHON": str(environment.python),
    }
    log = home / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.model"], env=variables, stdout=output, stderr=output
        )
    running = RunningService(f"http://127.0.0.1:{port}", psutil.Process(process.pid), log)
    try:
        wait_for(running, "ready")
        yield running
    finally:
        below = running.process.children(recursive=True)
        process.terminate()
        process.wait(60)
        _, alive = psutil.wait_procs(below, timeout=20)
        assert not alive, f"left running: {alive}"


def engine(running: RunningService) -> dict[str, Any]:
    """The engine as the service sees it."""
    with running.http("acme", "admin") as admin:
        body: dict[str, Any] = admin.get("/v1/engines/engine_vllm").json()
    return body


def wait_for(running: RunningService, state: str) -> dict[str, Any]:
    """Wait until the engine is in a state."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            body = engine(running)
        except httpx.TransportError:  # The service itself is still starting.
            time.sleep(0.5)
            continue
        assert body["state"] != "failed", body["reason"]
        if body["state"] == state:
            return body
        time.sleep(0.5)
    raise AssertionError(f"not {state}: {body}")
