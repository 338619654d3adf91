"""The images and the compose file, for real: build, start, talk, stop."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest
from PIL import Image

from deploy.environment import NAMES
from latticework import Client
from services.model.settings import ModelSettings
from shared.app import free_port

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.docker, pytest.mark.timeout(3000)]


class Compose:
    """`docker compose` on this repository, with its own project name and secrets."""

    def __init__(self) -> None:
        self.port = free_port()
        self.environment = {
            **os.environ,
            **{name: secrets.token_urlsafe(36) for name in NAMES},
            "COMPOSE_PROJECT_NAME": f"lattice{secrets.token_hex(3)}",
            "LATTICEWORK_PORT": str(self.port),
            "LATTICEWORK_MODEL_THREADS": "1",
        }

    def __call__(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            ["docker", "compose", *arguments], cwd=ROOT, env=self.environment, capture_output=True, text=True
        )
        assert not check or done.returncode == 0, done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def compose() -> Iterator[Compose]:
    if subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        pytest.skip("no Docker engine answers on this machine")
    running = Compose()
    try:
        running("up", "--build", "--detach", "--wait", "--wait-timeout", "240")
        yield running
    finally:
        print(running("logs", "--tail", "40", check=False))
        running("down", "--volumes", "--timeout", "30", check=False)


@pytest.fixture(scope="module")
def key(compose: Compose) -> str:
    made: str = json.loads(compose("exec", "-T", "gateway", "python", "-m", "gateway.bootstrap"))["key"]
    return made


def test_secrets_have_no_defaults() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        ["docker", "compose", "config"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "run make env" in done.stderr


def test_the_gpu_profile_leads_the_default_alias_to_vllm() -> None:
    environment = {**os.environ, **dict.fromkeys(NAMES, "x"), "LATTICEWORK_ENGINES": "gpu"}
    done = subprocess.run(
        ["docker", "compose", "--profile", "gpu", "config", "--format", "json"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    services = json.loads(done.stdout)["services"]
    assert services["vllm"]["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    variables = {**services["model"]["environment"], "LATTICEWORK_PRINCIPAL_SECRET": "x" * 32}
    engines = ModelSettings(
        model_engines=json.loads(variables["LATTICEWORK_MODEL_ENGINES"]), principal_secret="x" * 32
    )
    assert [engine.spec.kind for engine in engines.model_engines if "default" in engine.aliases] == [
        "upstream"
    ]


def test_the_real_model_answers_through_the_gateway(compose: Compose, key: str) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{compose.port}/v1", api_key=key, timeout=120) as client:
        reply = client.chat.completions.create(
            model="default", messages=[{"role": "user", "content": "Why is the sky blue?"}], max_tokens=16
        )
    assert reply.choices[0].message.content


def test_every_room_answers_through_the_gateway(compose: Compose, key: str, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.effect_noise((320, 240), 40).save(photo)
    with Client(f"http://127.0.0.1:{compose.port}", key) as client:
        assert len(client.vision.scaffold(photo, rows=3, cols=3).dots) == 9
        job = client.jobs.submit("diagnostics.cpu", {"steps": 2, "step_seconds": 0.05})
        assert client.jobs.wait(job.id, timeout=60).state == "succeeded"
        client.sql.databases.wait_ready("flights", timeout=120)
        asked = client.sql.ask("flights", "How many airlines are there?", profile="fast")
        assert asked.state == "answered"
        assert asked.answer is not None
        assert asked.answer.calls, "no model was asked"
        assert len(client.openai.embeddings.create(model="embed", input="a").data[0].embedding) == 384


def test_the_page_of_the_description_is_whole(compose: Compose) -> None:
    for path in ("/docs", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css", "/openapi.json"):
        answer = httpx.get(f"http://127.0.0.1:{compose.port}{path}", trust_env=False)
        assert answer.status_code == 200, path


def test_only_the_gateway_is_published(compose: Compose) -> None:
    containers = [json.loads(line) for line in compose("ps", "--format", "json").splitlines()]
    published = {
        container["Service"]
        for container in containers
        for publisher in container.get("Publishers") or []
        if publisher["PublishedPort"]
    }
    assert published == {"gateway"}


def test_services_run_as_an_ordinary_user_on_a_read_only_root(compose: Compose) -> None:
    for service in ("gateway", "model", "text2sql", "vision", "worker"):
        assert compose("exec", "-T", service, "id", "-u").strip() == "10001"
        probe = compose("exec", "-T", service, "sh", "-c", "touch /opt/x 2>&1 || true")
        assert "Read-only" in probe or "denied" in probe


def test_the_stop_is_clean_and_the_data_stay(compose: Compose, key: str) -> None:
    compose("restart", "--timeout", "30", "gateway")
    deadline = time.monotonic() + 90
    while True:
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{compose.port}/v1/usage",
                headers={"Authorization": f"Bearer {key}"},
                trust_env=False,
            )
            if answer.status_code == 200:
                break
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.5)
