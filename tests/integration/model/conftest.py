"""A real model service as a process of its own, beside an upstream that does as it is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
import openai
import psutil
import pytest

from shared.app import free_port
from shared.principal import ISSUER, Principal, PrincipalSigner
from tests.conftest import SECRET
from tests.integration.model.scripted_upstream import ScriptedUpstream

MODEL = "smollm2-135m-instruct"
START_SECONDS = 180.0


@dataclass(frozen=True)
class RunningService:
    """Where the service listens, and how to speak to it as somebody."""

    url: str
    process: psutil.Process
    log: Path

    def token(
        self, tenant: str = "acme", *scopes: str, audience: str = "model", lifetime: float = 900
    ) -> str:
        """A principal token for the service; one of negative lifetime has expired."""
        principal = Principal("key_test", tenant, frozenset(scopes or ("model",)))
        if lifetime > 0:
            return PrincipalSigner(SECRET).sign(principal, audience=audience, lifetime=lifetime)
        now = int(time.time() + lifetime)
        claims = {"iss": ISSUER, "aud": audience, "iat": now - 60, "exp": now, "sub": "key_test"}
        claims |= {"tenant": tenant, "scopes": sorted(principal.scopes)}
        return jwt.encode(claims, SECRET, algorithm="HS256")

    def http(self, tenant: str = "acme", *scopes: str) -> httpx.Client:
        """A client of the service's own paths."""
        headers = {"Authorization": f"Bearer {self.token(tenant, *scopes)}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)

    def openai(self, tenant: str = "acme") -> openai.OpenAI:
        """The stock client."""
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.token(tenant), max_retries=0, timeout=300
        )

    def engine_processes(self) -> list[psutil.Process]:
        """Processes of llama.cpp engines."""
        return [
            child
            for child in self.process.children(recursive=True)
            if "llamacpp_server.py" in " ".join(child.cmdline())
        ]


def engines(upstream_url: str) -> list[dict[str, Any]]:
    """A small real model, the encoder, and the scripted upstream."""
    return [
        {
            "id": "engine_default",
            "spec": {
                "kind": "llamacpp", "model": MODEL, "context_length": 2048, "slots": 4, "threads": 1,
            },
            "aliases": ["default"],
        },
        {
            "id": "engine_embed",
            "spec": {"kind": "encoder", "model": "all-minilm-l6-v2", "threads": 1},
            "aliases": ["embed"],
        },
        {
            "id": "engine_hosted",
            "spec": {
                "kind": "upstream", "base_url": upstream_url, "models": ["hosted"],
                "key_variable": "LATTICEWORK_MODEL_KEY_HOSTED", "embeddings": True, "max_concurrency": 4,
            },
        },
    ]  # fmt: skip


@pytest.fixture(scope="session")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture(scope="session")
def service(upstream: ScriptedUpstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The service, ready."""
    home = tmp_path_factory.mktemp("model")
    port = free_port()
    environment = os.environ | {
        "LATTICEWORK_HOME": str(home),
        "LATTICEWORK_PORT": str(port),
        "LATTICEWORK_PRINCIPAL_SECRET": SECRET,
        "LATTICEWORK_DRAIN_SECONDS": "30",
        "LATTICEWORK_MODEL_ENGINES": json.dumps(engines(upstream.url)),
        "LATTICEWORK_MODEL_KEY_HOSTED": "hosted-key",
        "LATTICEWORK_MODEL_QUEUE": "24",
        "LATTICEWORK_MODEL_ARTIFACT_BYTES": str(8 << 20),
    }
    log = home / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.model"], env=environment, stdout=output, stderr=output
        )
    running = RunningService(f"http://127.0.0.1:{port}", psutil.Process(process.pid), log)
    try:
        _wait_ready(running, process)
        yield running
    finally:
        process.terminate()
        process.wait(60)
        assert process.returncode in (0, -15), log.read_text()[-2000:]


def _wait_ready(running: RunningService, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    answer = "no answer yet"
    while time.monotonic() < deadline:
        assert process.poll() is None, running.log.read_text()[-3000:]
        try:
            response = httpx.get(f"{running.url}/readyz")
            answer = response.text
            if response.status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"not ready: {answer}")


@pytest.fixture
def client(service: RunningService) -> Iterator[openai.OpenAI]:
    """The stock OpenAI client."""
    with service.openai() as made:
        yield made


@pytest.fixture
def admin(service: RunningService) -> Iterator[httpx.Client]:
    """An administrator of the tenant acme."""
    with service.http("acme", "admin") as made:
        yield made
