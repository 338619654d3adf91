"""Any OpenAI-compatible address as an engine, so that hosted models can be used and mixed."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from urllib.parse import urlsplit

from services.model.engines.base import Capabilities, EngineStartFailed, EngineState, ProxiedEngine
from services.model.engines.specs import UpstreamSpec
from services.model.engines.supervised import CALL_TIMEOUTS, get_text
from shared.telemetry import logger
from shared.upstream import HttpUpstream, Upstream, UpstreamError, UpstreamLimits

log = logger(__name__)

PROBE_SECONDS = 15.0
FIRST_PROBE_SECONDS = 10.0


class UpstreamEngine(ProxiedEngine):
    """Passes requests on. It is ready while its model list answers; a 4xx is an answer too."""

    kind = "upstream"
    prefix = ""

    def __init__(self, spec: UpstreamSpec, *, probe_seconds: float = PROBE_SECONDS) -> None:
        super().__init__(limit=spec.max_concurrency)
        self.spec = spec
        self.probe_seconds = probe_seconds
        self._client: HttpUpstream | None = None
        self._prober: asyncio.Task[None] | None = None
        self._headers: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def models(self) -> Sequence[str]:
        return self.spec.models

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(chat=True, completions=True, embeddings=self.spec.embeddings)

    @property
    def client(self) -> Upstream:
        assert self._client is not None, "an engine has no client before it is started"
        return self._client

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self._headers

    @property
    def retry_after(self) -> float:
        return self.probe_seconds

    async def start(self) -> None:
        self._headers = self._authorization()
        base = str(self.spec.base_url).rstrip("/")
        self._client = HttpUpstream(
            base,
            name=urlsplit(base).netloc,
            timeouts=CALL_TIMEOUTS,
            limits=UpstreamLimits(max_concurrency=self.limit + 2),
        )
        self.state = EngineState.STARTING
        if not self.spec.probe:
            self.state = EngineState.READY
            return
        await self._probe()
        self._prober = asyncio.create_task(self._keep_probing())

    async def close(self) -> None:
        prober, self._prober = self._prober, None
        if prober is not None:
            prober.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await prober
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        self.state = EngineState.STOPPED

    def _authorization(self) -> tuple[tuple[bytes, bytes], ...]:
        variable = self.spec.key_variable
        if variable is None:
            return ()
        key = os.environ.get(variable, "").strip()
        if not key:
            raise EngineStartFailed(f"The environment variable {variable} with the API key is not set.")
        return ((b"authorization", b"Bearer " + key.encode("latin-1", errors="replace")),)

    async def _keep_probing(self) -> None:
        while True:
            await asyncio.sleep(self.probe_seconds)
            await self._probe()

    async def _probe(self) -> None:
        """An unreachable upstream is no reason to fail: it may come back."""
        try:
            async with asyncio.timeout(FIRST_PROBE_SECONDS):
                status, _ = await get_text(self.client, "/models", self._headers)
            why = None if status < 500 else f"its model list answers with status {status}"
            if status in (401, 403):
                why = "it refuses the API key"
        except (UpstreamError, TimeoutError) as error:
            why = str(error) or "it does not answer"
        if self.state is EngineState.DRAINING:
            return
        state = EngineState.READY if why is None else EngineState.RESTARTING
        if state is not self.state:
            log.info(
                "upstream engine", state=state, address=urlsplit(str(self.spec.base_url)).netloc, reason=why
            )
        self.state, self.reason = state, why
