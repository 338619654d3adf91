"""What the routes stand on: the two pools, and errors of their jobs as problems."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from services.vision.problems import Busy, TimedOut, problem_for
from services.vision.settings import VisionSettings
from services.vision.work import (
    LegibilityJob,
    OverlayJob,
    PoolBusyError,
    Reply,
    TaskError,
    TaskTimeoutError,
    ViewJob,
    WorkerPool,
)
from services.vision.work.tasks import to_parameters
from shared.problems import InternalError
from shared.telemetry import logger

OCR_THREADS = 2
log = logger(__name__)


class Engine:
    """Runs jobs on images; started with the application, closed with it."""

    def __init__(self, settings: VisionSettings, registry: CollectorRegistry) -> None:
        self.settings = settings
        self.pool = WorkerPool(
            size=settings.vision_workers,
            queue=settings.vision_queue,
            seconds=settings.vision_task_seconds,
            memory_bytes=settings.vision_worker_memory_bytes,
        )
        self._ocr_pool = WorkerPool(
            size=1,
            queue=min(4, settings.vision_queue),
            seconds=settings.vision_ocr_seconds,
            memory_bytes=settings.vision_ocr_memory_bytes,
            threads=OCR_THREADS,
        )
        self._jobs = Counter(
            "latticework_vision_jobs", "Image jobs by outcome", ("task", "outcome"), registry=registry
        )
        gauge = Gauge("latticework_vision_load", "Image jobs running and waiting", registry=registry)
        gauge.set_function(lambda: self.pool.load)

    async def start(self) -> None:
        await self.pool.start()

    async def close(self) -> None:
        await asyncio.gather(self.pool.close(), self._ocr_pool.close())

    async def readiness(self) -> str | None:
        """None while workers are up."""
        return None if self.pool.started else "the image workers are starting"

    @staticmethod
    def has_ocr() -> bool:
        """Whether the OCR extra is installed."""
        return importlib.util.find_spec("rapidocr") is not None

    async def overlay(self, job: OverlayJob, images: Sequence[bytes]) -> Reply:
        return await self._run(self.pool, "overlay", job, images)

    async def view(self, job: ViewJob, image: bytes) -> Reply:
        return await self._run(self.pool, "view", job, [image])

    async def legibility(self, job: LegibilityJob, image: bytes) -> Reply:
        return await self._run(self._ocr_pool, "legibility", job, [image])

    async def _run(
        self,
        pool: WorkerPool,
        task: str,
        job: OverlayJob | ViewJob | LegibilityJob,
        images: Sequence[bytes],
    ) -> Reply:
        outcome = "error"
        try:
            reply = await pool.run(task, to_parameters(job), images)
            outcome = "ok"
            return reply
        except PoolBusyError as busy:
            outcome = "busy"
            raise Busy(
                "All workers are busy and the queue is full; try again shortly.",
                retry_after=busy.retry_after,
            ) from None
        except TaskTimeoutError:
            outcome = "timeout"
            raise TimedOut(
                f"The image took more than {pool.seconds:g} seconds; send a smaller one."
            ) from None
        except TaskError as error:
            outcome = error.code
            if error.code == "internal_error":
                log.error("vision_job_failed", task=task, trace=error.trace)
                raise InternalError() from None
            raise problem_for(error.code, str(error)) from None
        finally:
            self._jobs.labels(task, outcome).inc()
