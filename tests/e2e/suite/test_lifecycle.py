"""`make run` as a person lives with it: start, second start, crash, stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from shared.app import free_port
from tests.e2e.conftest import ROOT, RunningSuite, start_suite, stop_suite

SECOND_START_SECONDS = 60.0
"""A bound for any machine; `python -m benchmarks.start` measures what it really takes."""


def family(suite: RunningSuite) -> list[psutil.Process]:
    return psutil.Process(suite.process.pid).children(recursive=True)


def gone(processes: list[psutil.Process], seconds: float = 15.0) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=seconds)[1]


@pytest.mark.timeout(400)
def test_stop_leaves_nothing_and_the_second_start_is_quick_and_keeps_the_key(tmp_path: Path) -> None:
    first = start_suite(tmp_path / "home")
    processes = family(first)
    assert len(processes) >= 5
    stop_suite(first)
    assert gone(processes) == []
    assert not (first.home / "local.json").exists()
    assert first.process.returncode == 0

    started = time.monotonic()
    second = start_suite(tmp_path / "home")
    seconds = time.monotonic() - started
    try:
        assert second.key == first.key
        with second.http() as client:
            assert client.get("/v1/models").status_code == 200
        assert seconds < SECOND_START_SECONDS
    finally:
        processes = family(second)
        second.process.send_signal(signal.SIGKILL)
        second.process.wait()
    assert gone(processes) == [], "a killed runner leaves orphans"


def pids(suite: RunningSuite) -> dict[str, int]:
    found: dict[str, int] = json.loads((suite.home / "local.json").read_text())["pids"]
    return found


def test_a_crashed_service_comes_back(suite: RunningSuite) -> None:
    crashed = pids(suite)["vision"]
    os.kill(crashed, signal.SIGKILL)
    deadline = time.monotonic() + 60
    answers: list[int] = []
    with suite.http() as client:
        while pids(suite)["vision"] == crashed or answers[-1:] != [200]:
            answers.append(client.get("/v1/vision/capabilities").status_code)
            assert time.monotonic() < deadline, answers[-10:]
            time.sleep(0.1)
    assert set(answers) <= {200, 502, 503}


def test_a_second_suite_on_the_same_home_says_so(suite: RunningSuite) -> None:
    environment = {**os.environ, "LATTICEWORK_HOME": str(suite.home), "LATTICEWORK_PORT": str(free_port())}
    command = [sys.executable, "-m", "deploy.local"]
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert "already runs" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_taken_port_says_so(suite: RunningSuite, tmp_path: Path) -> None:
    port = suite.url.rpartition(":")[2]
    environment = {**os.environ, "LATTICEWORK_HOME": str(tmp_path), "LATTICEWORK_PORT": port}
    command = [sys.executable, "-m", "deploy.local"]
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert f"Port {port}" in again.stderr
    assert "LATTICEWORK_PORT=" in again.stderr


def test_the_merged_description_and_its_page(suite: RunningSuite) -> None:
    with suite.http() as client:
        document = client.get("/openapi.json").json()
        page = client.get("/docs")
        script = client.get("/docs/start.js")
    for path in ("/v1/chat/completions", "/v1/keys", "/v1/sql/questions", "/v1/vision/scaffold", "/v1/jobs"):
        assert path in document["paths"], path
    assert page.status_code == 200
    assert "/docs/start.js" in page.text
    assert "/openapi.json" in script.text


def test_nobody_gets_in_without_a_key(suite: RunningSuite) -> None:
    for path in ("/v1/models", "/v1/keys", "/v1/usage", "/v1/vision/capabilities", "/metrics"):
        assert httpx.get(suite.url + path, trust_env=False).status_code == 401, path
