"""The ways from the loader to the upstream: how each is started and addressed."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from benchmarks.gateway.processes import CannotMeasure, Cores, Process, prioritise, start, wait_until
from deploy.redis_server import RedisServer, start_redis
from shared.app import free_port

ROOT = Path(__file__).parents[2]
PATH = "/v1/chat/completions"
MODEL = "bench"

LITELLM_VERSION = "1.106.2"
LITELLM_HOME = ROOT / ".latticework" / "bench-litellm"
"""An environment of its own: the proxy drags in some 110 packages (no PyTorch, no CUDA)."""

_PROBE = {"model": MODEL, "messages": [{"role": "user", "content": "ready?"}], "max_tokens": 4}


@dataclass(slots=True)
class Variant:
    """A running way to the upstream. `helpers` work for the proxy but are not it (Redis)."""

    name: str
    label: str
    port: int
    process: Process | None = None
    headers: dict[str, str] = field(default_factory=dict)
    helpers: list[Process] = field(default_factory=list)
    slow: bool = False
    """Needs longer windows and gets fewer streams: its calls take ten milliseconds each and more."""
    close: Callable[[], None] = lambda: None

    def answers(self) -> bool:
        """Whether a chat completion comes through."""
        url = f"http://127.0.0.1:{self.port}{PATH}"
        return httpx.post(url, json=_PROBE, headers=self.headers, timeout=30).status_code == 200

    def stop(self) -> None:
        """End everything that was started for it."""
        if self.process is not None:
            self.process.stop()
        self.close()


@dataclass(frozen=True, slots=True)
class Site:
    """Where variants are started: a scratch folder, the cores, the upstream's port, the priority."""

    folder: Path
    cores: Cores
    upstream_port: int
    nice: int | None = None

    @property
    def upstream(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"

    def room(self, name: str) -> Path:
        """A folder for one variant."""
        path = self.folder / name
        path.mkdir(exist_ok=True)
        return path


def direct(site: Site) -> Variant:
    """No proxy at all: what the loader and the upstream cost by themselves."""
    return Variant("direct", "direct", site.upstream_port)


def nginx(site: Site) -> Variant:
    """nginx with one worker, kept connections to the upstream and no buffering.

    Raises:
        CannotMeasure: it is not installed.
    """
    binary = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if binary is None:
        raise CannotMeasure("nginx is not installed (Debian package nginx-light)")
    room, port = site.room("nginx"), free_port()
    configuration = room / "nginx.conf"
    configuration.write_text(
        f"""
        daemon off; master_process off; worker_processes 1; pid {room}/nginx.pid; error_log stderr crit;
        events {{ worker_connections 4096; }}
        http {{
            access_log off; keepalive_requests 1000000000; client_body_buffer_size 64k;
            client_body_temp_path {room}/body; proxy_temp_path {room}/proxy; fastcgi_temp_path {room}/fastcgi;
            uwsgi_temp_path {room}/uwsgi; scgi_temp_path {room}/scgi;
            upstream fake {{
                server 127.0.0.1:{site.upstream_port}; keepalive 512; keepalive_requests 1000000000;
            }}
            server {{
                listen 127.0.0.1:{port} backlog=4096;
                location / {{
                    proxy_pass http://fake; proxy_http_version 1.1; proxy_set_header Connection "";
                    proxy_buffering off;
                }}
            }}
        }}
        """
    )
    command = (binary, "-p", room, "-c", configuration)
    process = start("nginx", command, core=site.cores.proxy, folder=room)
    return _ready(Variant("nginx", "nginx, 1 worker", port, process), 10)


def raw_asgi(site: Site) -> Variant:
    """A bare ASGI function on our own upstream client: the limit of our stack."""
    return _python_peer(site, "raw_asgi", "raw ASGI + shared.upstream")


def raw_aiohttp(site: Site) -> Variant:
    """A bare ASGI function on aiohttp's client: the usual fast proxy, and the yardstick for our duties."""
    return _python_peer(site, "raw_aiohttp", "raw ASGI + aiohttp")


def fastapi_httpx(site: Site) -> Variant:
    """The plain proxy most people write first."""
    return _python_peer(site, "fastapi_httpx", "FastAPI + httpx")


def _python_peer(site: Site, name: str, label: str) -> Variant:
    port, room = free_port(), site.room(name)
    module = f"benchmarks.gateway.peers.{name}"
    command = [sys.executable, "-m", module, str(port), str(site.upstream_port)]
    environment = {"PYTHONPATH": str(ROOT)}
    process = start(name, command, core=site.cores.proxy, folder=room, environment=environment)
    return _ready(Variant(name, label, port, process), 30)


def litellm(site: Site) -> Variant:
    """LiteLLM's proxy, one worker, without database, key check or metering.

    Raises:
        CannotMeasure: its environment is not there.
    """
    binary = LITELLM_HOME / "bin" / "litellm"
    if not binary.exists():
        raise CannotMeasure("its environment is not installed (a run without --quick installs it)")
    room, port = site.room("litellm"), free_port()
    model = {
        "model_name": MODEL,
        "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{site.upstream}/v1", "api_key": "none"},
    }
    configuration = room / "config.yaml"
    # JSON is YAML.
    configuration.write_text(json.dumps({"model_list": [model], "litellm_settings": {"telemetry": False}}))
    address = ("--host", "127.0.0.1", "--port", str(port))
    command = (binary, "--config", configuration, "--num_workers", "1", *address)
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # No download at start.
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # No key check: in its favour.
        "NO_PROXY": "*",
    }
    process = start("litellm", command, core=site.cores.proxy, folder=room, environment=environment)
    label = f"LiteLLM {LITELLM_VERSION}, 1 worker"
    return _ready(Variant("litellm", label, port, process, slow=True), 180)


def install_litellm() -> None:
    """Make LiteLLM's environment, once. Takes minutes and half a gigabyte.

    Raises:
        CannotMeasure: pip fails.
    """
    if (LITELLM_HOME / "bin" / "litellm").exists():
        return
    venv.create(LITELLM_HOME, with_pip=True)
    python = LITELLM_HOME / "bin" / "python"
    command = (python, "-m", "pip", "install", "-q", f"litellm[proxy]=={LITELLM_VERSION}")
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise CannotMeasure(f"LiteLLM could not be installed: {result.stderr[-500:]}")


def latticework(site: Site) -> Variant:
    """Our gateway as it is shipped: key, rates, budget and ledger on, counters in a real Redis."""
    room, port = site.room("latticework"), free_port()
    redis = start_redis(room / "redis")
    if site.nice is not None:
        prioritise(redis.process.pid, site.nice)  # It has a session of its own.
    environment = {
        "PYTHONPATH": str(ROOT),
        "LATTICEWORK_HOME": str(room),
        "LATTICEWORK_HOST": "127.0.0.1",
        "LATTICEWORK_PORT": str(port),
        "LATTICEWORK_REDIS_URL": redis.url,
        "LATTICEWORK_PRINCIPAL_SECRET": secrets.token_urlsafe(48),
        "LATTICEWORK_GATEWAY_URL": f"http://127.0.0.1:{port}",
        "LATTICEWORK_GATEWAY_UPSTREAMS": json.dumps({"model": site.upstream}),
        "LATTICEWORK_GATEWAY_PRICES": json.dumps({MODEL: {"prompt": "0.1", "completion": "0.2"}}),
    }
    process = start(
        "latticework",
        [sys.executable, "-m", "gateway"],
        core=site.cores.proxy,
        folder=room,
        environment=environment,
    )
    variant = Variant("latticework", "Latticework gateway", port, process, close=redis.stop)
    variant.helpers.append(_as_process(redis, room))
    try:
        health = f"http://127.0.0.1:{port}/healthz"
        wait_until(process, lambda: httpx.get(health, timeout=5).status_code == 200, 60)
        variant.headers = {"authorization": f"Bearer {_user_key(port, environment, room)}"}
        return _ready(variant, 30)
    except BaseException:
        variant.stop()
        raise


def _user_key(port: int, environment: dict[str, str], folder: Path) -> str:
    """A key with every check on, and limits no benchmark can reach."""
    bootstrap = subprocess.run(
        [sys.executable, "-m", "gateway.bootstrap"],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if bootstrap.returncode:
        raise CannotMeasure(f"no admin key could be made: {bootstrap.stderr[-1500:]}")
    admin = json.loads(bootstrap.stdout)["key"]
    answer = httpx.post(
        f"http://127.0.0.1:{port}/v1/keys",
        headers={"authorization": f"Bearer {admin}"},
        json={
            "name": "benchmark",
            "scopes": ["model"],
            "requests_per_minute": 100_000_000,
            "tokens_per_minute": 1_000_000_000_000,
            "budget": {"usd": "1000000", "tokens": 1_000_000_000_000},
        },
        timeout=30,
    )
    if answer.status_code != 201:
        raise CannotMeasure(f"no key could be made: {answer.status_code} {answer.text[:500]}")
    return str(answer.json()["key"])


def _as_process(redis: RedisServer, folder: Path) -> Process:
    return Process("redis", redis.process, folder / "redis" / "redis.log")


def _ready(variant: Variant, seconds: float) -> Variant:
    assert variant.process is not None
    try:
        wait_until(variant.process, variant.answers, seconds)
    except CannotMeasure:
        variant.process.stop()
        raise
    return variant


VARIANTS: dict[str, Callable[[Site], Variant]] = {
    "direct": direct,
    "nginx": nginx,
    "raw_asgi": raw_asgi,
    "raw_aiohttp": raw_aiohttp,
    "latticework": latticework,
    "fastapi_httpx": fastapi_httpx,
    "litellm": litellm,
}
