"""The whole suite, started as a user starts it, once per test session."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest

from shared.app import free_port

ROOT = Path(__file__).parents[2]
START_SECONDS = 180.0


@dataclass(frozen=True, slots=True)
class RunningSuite:
    """A suite started by `python -m deploy.local`, and its administrator's key."""

    url: str
    key: str
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}

    def http(self, timeout: float = 120.0) -> httpx.Client:
        """A plain HTTP client that is known as the administrator."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=timeout, trust_env=False)


def start_suite(home: Path, environment: dict[str, str] | None = None) -> RunningSuite:
    """Start the suite in `home` on a free port and wait until it says it is ready."""
    home.mkdir(parents=True, exist_ok=True)
    variables = {
        **os.environ,
        "LATTICEWORK_HOME": str(home),
        "LATTICEWORK_PORT": str(free_port()),
        "LATTICEWORK_MODEL_THREADS": "1",
        **(environment or {}),
    }
    output = (home / "output.txt").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.local"], cwd=ROOT, env=variables, stdout=output, stderr=output
    )
    address = home / "local.json"
    deadline = time.monotonic() + START_SECONDS
    while not address.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail("the suite did not start:\n" + (home / "output.txt").read_text()[-3000:])
        time.sleep(0.05)
    local = json.loads(address.read_text())
    return RunningSuite(local["url"], local["key"], home, process)


def stop_suite(suite: RunningSuite) -> None:
    """Ctrl-C, and wait."""
    suite.process.send_signal(signal.SIGINT)
    try:
        suite.process.wait(60)
    except subprocess.TimeoutExpired:
        suite.process.kill()
        raise


@pytest.fixture(scope="session")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    """The running suite of this test session."""
    running = start_suite(tmp_path_factory.mktemp("suite"))
    yield running
    stop_suite(running)


@pytest.fixture(scope="session")
def openai_client(suite: RunningSuite) -> Iterator[openai.OpenAI]:
    """The stock client of OpenAI, pointed at the gateway."""
    with openai.OpenAI(base_url=f"{suite.url}/v1", api_key=suite.key, timeout=120.0, max_retries=0) as client:
        yield client
