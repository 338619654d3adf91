"""`make run`: the whole suite on this machine, on embedded defaults, until Ctrl-C.

State lives in `LATTICEWORK_HOME` (`./.latticework`); deleting that folder resets the suite. Every
setting of a service may be given as usual; what is not given is filled in here: a secret made once
and kept, a private Redis, free ports for the inner services.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from rich.console import Console

from deploy.log import Log
from deploy.redis_server import RedisUnavailable, answers, redis_address, redis_command
from deploy.supervisor import Probe, ProcessSpec, StartFailed, Supervisor
from shared.app import free_port

SERVICES = ("model", "text2sql", "vision")
WORKER_POOLS = ("text2sql", "diagnostics")


class LocalSettings(BaseSettings):
    """What the runner itself reads; everything else goes through to the services untouched."""

    model_config = SettingsConfigDict(
        env_prefix="LATTICEWORK_", env_file=".env", env_ignore_empty=True, extra="ignore"
    )

    home: Path = Field(Path(".latticework"), description="folder of all local state")
    host: str = Field("127.0.0.1", description="address the gateway listens on")
    port: int = Field(8080, ge=1, le=65535, description="port of the gateway, the only public one")
    redis_url: str | None = Field(None, description="a Redis to use instead of the private one")
    verbose: bool = Field(False, description="show every log line, not only warnings")


class CannotStart(Exception):
    """The suite cannot be started; the message is for a person."""


@dataclass(frozen=True, slots=True)
class Local:
    """The addresses and secrets of one run."""

    settings: LocalSettings
    home: Path
    redis_url: str
    private_redis: tuple[int, str] | None
    ports: Mapping[str, int]
    environment: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where the gateway is reached."""
        host = "127.0.0.1" if self.settings.host in ("0.0.0.0", "::") else self.settings.host
        return f"http://{host}:{self.settings.port}"


def prepare(settings: LocalSettings) -> Local:
    """Make the home folder, the secrets and the addresses.

    Raises:
        CannotStart: the port is taken, or the Redis that is named does not answer.
    """
    home = settings.home.resolve()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    _check_port(settings.host, settings.port)
    redis_url, private_redis = settings.redis_url, None
    if redis_url is None:
        private_redis = (free_port(), secrets.token_urlsafe(16))
        redis_url = redis_address(*private_redis)
    else:
        _check_redis(redis_url)
    ports = {name: free_port() for name in SERVICES}
    gateway_url = f"http://127.0.0.1:{settings.port}"
    environment = {
        "LATTICEWORK_HOME": str(home),
        "LATTICEWORK_REDIS_URL": redis_url,
        "LATTICEWORK_GATEWAY_URL": gateway_url,
        "LATTICEWORK_PRINCIPAL_SECRET": kept_secret(home, "PRINCIPAL_SECRET"),
        "LATTICEWORK_CREDENTIALS_SECRET": kept_secret(home, "CREDENTIALS_SECRET"),
        "LATTICEWORK_GATEWAY_UPSTREAMS": json.dumps(
            {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        ),
        "LATTICEWORK_LOG_FORMAT": os.environ.get("LATTICEWORK_LOG_FORMAT", "json"),
        "PYTHONUNBUFFERED": "1",
        # Compiled once: without it every start compiles the suite again, 1 s of each service's start.
        "PYTHONDONTWRITEBYTECODE": "",
    }
    return Local(settings, home, redis_url, private_redis, ports, environment)


def kept_secret(home: Path, name: str) -> str:
    """The secret `name`: from the environment, or made once and kept in a file only we can read."""
    if given := os.environ.get(f"LATTICEWORK_{name}"):
        return given
    path = home / f"{name.lower()}.txt"
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as sink:
            sink.write(secrets.token_urlsafe(48))
    return path.read_text().strip()


def _check_port(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStart(
                f"Port {port} on {host} cannot be used ({error.strerror}). "
                f"Stop what listens there, or choose another: LATTICEWORK_PORT={port + 1} make run"
            ) from None


def _check_redis(url: str) -> None:
    try:
        ready = answers(url)
    except ValueError as error:
        raise CannotStart(f"LATTICEWORK_REDIS_URL is no address of a Redis: {error}") from None
    if not ready:
        place = url.rpartition("@")[2].removeprefix("redis://")  # without the password
        raise CannotStart(
            f"LATTICEWORK_REDIS_URL is set, but no Redis takes commands at {place}. "
            "Start it, or unset the variable for a private one."
        )


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Hold the home folder for this run.

    Raises:
        CannotStart: another suite runs on it.
    """
    with (home / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotStart(
                f"A suite already runs on {home}; `lattice status` shows it. "
                "For a second one set LATTICEWORK_HOME and LATTICEWORK_PORT."
            ) from None
        yield


def process_specs(local: Local) -> list[ProcessSpec]:
    """Everything that runs, each after what it needs."""
    specs = []
    needs: tuple[str, ...] = ()
    if local.private_redis is not None:
        server = redis_command(local.home / "redis", *local.private_redis)
        specs.append(ProcessSpec("redis", server, probe=_redis_probe(local.redis_url), stop_seconds=10))
        needs = ("redis",)
    for name in SERVICES:
        address = {"LATTICEWORK_HOST": "127.0.0.1", "LATTICEWORK_PORT": str(local.ports[name])}
        specs.append(_python(local, name, (f"services.{name}",), address, local.ports[name], needs))
    public = {"LATTICEWORK_HOST": local.settings.host, "LATTICEWORK_PORT": str(local.settings.port)}
    specs.append(_python(local, "gateway", ("gateway",), public, local.settings.port, needs))
    for pool in WORKER_POOLS:
        command = ("shared.jobs.worker", "--pool", pool)
        specs.append(
            _python(local, f"worker-{pool}", command, {}, None, (*needs, "gateway"), stop_seconds=35)
        )
    return specs


def _python(
    local: Local,
    name: str,
    module: Sequence[str],
    environment: Mapping[str, str],
    port: int | None,
    after: tuple[str, ...],
    stop_seconds: float = 25.0,
) -> ProcessSpec:
    return ProcessSpec(
        name,
        (sys.executable, "-m", *module),
        environment={**local.environment, **environment},
        probe=None if port is None else _http_probe(port),
        after=after,
        stop_seconds=stop_seconds,
    )


def _redis_probe(url: str) -> Probe:
    async def probe() -> str | None:
        return None if await asyncio.to_thread(answers, url) else "Redis does not answer"

    return probe


def _http_probe(port: int) -> Probe:
    async def probe() -> str | None:
        try:
            async with httpx.AsyncClient(timeout=2.0, trust_env=False) as client:
                response = await client.get(f"http://127.0.0.1:{port}/readyz")
        except httpx.HTTPError as error:
            return type(error).__name__
        if response.status_code == 200:
            return None
        reasons: dict[str, str] = response.json().get("not_ready", {})
        return (
            "; ".join(f"{part}: {why}" for part, why in reasons.items()) or f"status {response.status_code}"
        )

    return probe


async def development_key(local: Local) -> str:
    """The key of this machine's developer: made on the first start, kept in a file only we can read."""
    path = local.home / "development.key"
    kept = _kept_key(path)
    if kept is not None and await _opens(local, kept):
        return kept
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.bootstrap", "--keep", str(path)),
        env={**os.environ, **local.environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate()
    if process.returncode != 0:
        raise CannotStart(
            f"The development key could not be made:\n{errors.decode(errors='replace')[-2000:]}"
        )
    key: str = json.loads(output)["key"]
    return key


def _kept_key(path: Path) -> str | None:
    try:
        return str(json.loads(path.read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def _opens(local: Local, key: str) -> bool:
    """Whether the gateway knows the key; asking it is 2 s quicker than starting its tools."""
    async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
        answer = await client.get(f"{local.url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    return answer.status_code == 200


def write_address(local: Local, key: str, pids: Mapping[str, int]) -> Path:
    """Tell the client where the suite is: `<home>/local.json`."""
    path = local.home / "local.json"
    partial = path.with_suffix(".partial")
    partial.touch(mode=0o600)
    partial.write_text(json.dumps({"url": local.url, "key": key, "pids": dict(pids), "ready": True}))
    partial.replace(path)
    return path


def greet(console: Console, local: Local, key: str, seconds: float) -> None:
    """Say where the suite is and what to try."""
    lattice = Path(sys.executable).with_name("lattice")
    command = str(lattice.relative_to(Path.cwd())) if lattice.is_relative_to(Path.cwd()) else str(lattice)
    if shutil.which("lattice"):
        command = "lattice"
    console.print(
        f"\n[bold green]ready[/] in {seconds:.1f} s at [bold]{local.url}[/]  (docs: {local.url}/docs)"
    )
    console.print(f"development key: [bold]{key}[/]", soft_wrap=True)
    console.print("\ntry:", style="bold")
    for line in (
        f'{command} chat "Why is the sky blue?"',
        f'{command} ask "Which carrier has the longest average departure delay?" --db flights',
        f"curl -H 'Authorization: Bearer {key}' {local.url}/v1/models",
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True)
    console.print(
        f"\nlog: {local.home / 'latticework.log'}   stop: Ctrl-C\n", highlight=False, soft_wrap=True
    )


async def run(local: Local, console: Console) -> None:
    """Start everything, wait for a signal, stop everything.

    Raises:
        CannotStart, StartFailed: with the words to show.
    """
    started = time.monotonic()
    log = Log(local.home / "latticework.log", console, verbose=local.settings.verbose)
    supervisor = Supervisor(process_specs(local), log)
    stop = asyncio.Event()
    key = ""

    def on_change() -> None:
        if key:
            write_address(local, key, {"suite": os.getpid(), **supervisor.pids})

    supervisor.on_change = on_change

    def on_signal() -> None:
        if stop.is_set():
            supervisor.kill()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)

    def on_ready(name: str, seconds: float) -> None:
        console.print(f"  [green]✓[/] {name:<18} {seconds:5.1f} s", highlight=False)

    starting = asyncio.create_task(supervisor.start(on_ready))
    stopping = asyncio.create_task(stop.wait())
    address = local.home / "local.json"
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            key = await development_key(local)
            on_change()
            greet(console, local, key, time.monotonic() - started)
            await stopping
    finally:
        key = ""
        address.unlink(missing_ok=True)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        console.print("stopping ...")
        await supervisor.stop()
        log.close()
        console.print("stopped.")


def main() -> None:
    """Entry of `make run`."""
    console = Console(highlight=False)
    try:
        settings = LocalSettings()
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with only_one(settings.home.resolve()):
            local = prepare(settings)
            console.print(f"starting Latticework in {local.home}", soft_wrap=True)
            asyncio.run(run(local, console))
    except ValidationError as error:
        first = error.errors()[0]
        _fail(f"LATTICEWORK_{'_'.join(map(str, first['loc'])).upper()}: {first['msg'].lower()}.")
    except (CannotStart, StartFailed, RedisUnavailable) as error:
        _fail(str(error))


def _fail(message: str) -> None:
    print(message, file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    main()
