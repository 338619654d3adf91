"""The bounded pool: overload, time limit, memory limit, dying workers, no secrets down there."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from services.vision.app import create_app
from services.vision.imaging import Limits
from services.vision.work import OverlayJob, PoolBusyError, TaskError, TaskTimeoutError, WorkerPool
from services.vision.work.tasks import to_parameters
from shared.principal import Principal
from tests.integration.vision.conftest import token, vision_settings
from tests.integration.vision.servers import serving
from tests.unit.vision.images import one_bit_png, picture, save

JPEG = save(picture(640, 480), "JPEG")
JOB = to_parameters(OverlayJob())
SLOW = [one_bit_png(4000)] * 6
"""Small to send, nearly 100 megapixels to draw on."""
GENEROUS = to_parameters(OverlayJob(limits=Limits(max_pixels=10**9, max_side=65_535)))


@pytest.fixture
async def pool() -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(size=1, queue=1, seconds=20, memory_bytes=1 << 30)
    await pool.start()
    yield pool
    await pool.close()


async def test_a_job_and_its_bytes(pool: WorkerPool) -> None:
    reply = await pool.run("overlay", JOB, [JPEG])
    assert len(reply.result["pictures"]) == 1
    assert reply.blobs[0][:3] == b"\xff\xd8\xff"


async def test_what_is_over_the_queue_is_refused_at_once(pool: WorkerPool) -> None:
    jobs = [asyncio.create_task(pool.run("overlay", JOB, [JPEG])) for _ in range(5)]
    results = await asyncio.gather(*jobs, return_exceptions=True)
    busy = [result for result in results if isinstance(result, PoolBusyError)]
    assert len(busy) == 3
    assert all(error.retry_after >= 1 for error in busy)
    assert len((await pool.run("overlay", JOB, [JPEG])).blobs) == 1


async def test_a_job_past_its_time_is_killed_and_the_pool_lives_on(pool: WorkerPool) -> None:
    await pool.run("overlay", JOB, [JPEG])
    (before,) = pool.process_ids()
    pool.seconds = 0.3
    started = time.monotonic()
    with pytest.raises(TaskTimeoutError):
        await pool.run("overlay", GENEROUS, SLOW)
    assert time.monotonic() - started < 5
    pool.seconds = 20
    await pool.run("overlay", JOB, [JPEG])
    (after,) = pool.process_ids()
    assert before != after
    assert not psutil.pid_exists(before)


async def test_a_dying_worker_costs_one_job(pool: WorkerPool) -> None:
    (victim,) = pool.process_ids()
    slow = asyncio.create_task(pool.run("overlay", GENEROUS, SLOW))
    await asyncio.sleep(0.1)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(TaskError, match="gave up"):
        await slow
    assert (await pool.run("overlay", JOB, [JPEG])).blobs


async def test_an_idle_worker_that_died_is_replaced(pool: WorkerPool) -> None:
    (victim,) = pool.process_ids()
    os.kill(victim, signal.SIGKILL)
    psutil.Process(victim).wait(5)
    assert (await pool.run("overlay", JOB, [JPEG])).blobs


async def test_memory_beyond_the_limit_is_an_error_not_a_crash(pool: WorkerPool) -> None:
    (before,) = pool.process_ids()
    with pytest.raises(TaskError) as caught:
        await pool.run("overlay", GENEROUS, [one_bit_png(20_000)])
    assert caught.value.code in ("image_too_large", "image_malformed")
    assert (await pool.run("overlay", JOB, [JPEG])).blobs
    assert pool.process_ids() == [before]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGBA", "WEBP", {"lossless": True, "method": 0}),
        ("LA", "PNG", {"compress_level": 1}),
        ("CMYK", "JPEG", {}),
        ("F", "TIFF", {"compression": "tiff_lzw"}),
    ],
)
async def test_the_largest_pictures_fit_the_memory_of_a_worker(
    mode: str, kind: str, options: dict[str, object]
) -> None:
    """Fifty megapixels in the modes that take most on the way to sRGB."""
    limits, side = vision_settings(), 7070
    pool = WorkerPool(size=1, queue=0, seconds=60, memory_bytes=limits.vision_worker_memory_bytes)
    await pool.start()
    try:
        file = save(Image.new(mode, (side, side)), kind, **options)
        reply = await pool.run("overlay", to_parameters(OverlayJob(limits=limits.limits())), [file])
        assert reply.result["pictures"][0]["working_size"] == [side, side]
    finally:
        await pool.close()


async def test_a_cancelled_caller_leaves_no_half_read_pipe(pool: WorkerPool) -> None:
    slow = asyncio.create_task(pool.run("overlay", GENEROUS, SLOW))
    await asyncio.sleep(0.05)
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow
    reply = await pool.run("overlay", JOB, [JPEG])
    assert reply.result["pictures"][0]["working_size"] == [640, 480]


async def test_what_nobody_foresaw_is_an_internal_error_with_a_trace(pool: WorkerPool) -> None:
    """A fault of ours must not pass for a fault of the image."""
    with pytest.raises(TaskError) as caught:
        await pool.run("no such task", {}, [])
    assert caught.value.code == "internal_error"
    assert caught.value.trace is not None
    assert "KeyError" in caught.value.trace


def test_traces_stay_in_the_log(vision_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*arguments: object) -> None:
        raise TaskError("internal_error", "KeyError", "a trace with secrets")

    monkeypatch.setattr(WorkerPool, "run", fail)
    headers = {"Authorization": f"Bearer {token()}", "Content-Type": "image/jpeg"}
    response = httpx.post(f"{vision_url}/v1/vision/scaffold", content=JPEG, headers=headers)
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "secrets" not in response.text


async def test_closing_ends_the_processes() -> None:
    pool = WorkerPool(size=2, queue=0, seconds=20, memory_bytes=1 << 30)
    await pool.start()
    pids = pool.process_ids()
    await pool.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(PoolBusyError):
        await pool.run("overlay", JOB, [JPEG])


async def test_workers_know_no_secrets_and_have_limits(
    pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pid,) = pool.process_ids()
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"LATTICEWORK" not in environment
    limits = Path(f"/proc/{pid}/limits").read_text()
    assert f"{1 << 30}" in next(line for line in limits.splitlines() if line.startswith("Max address space"))


def test_a_hundred_parallel_requests(vision_url: str) -> None:
    """Answered or refused with Retry-After, nothing else; and the event loop stays awake."""
    data = save(picture(1600, 1200), "JPEG")
    headers = {"Authorization": f"Bearer {token()}", "Content-Type": "image/jpeg", "Accept": "image/jpeg"}
    pings: list[float] = []
    done = threading.Event()

    def ping() -> None:
        with httpx.Client(trust_env=False) as client:
            while not done.is_set():
                started = time.perf_counter()
                assert client.get(f"{vision_url}/healthz").status_code == 200
                pings.append(time.perf_counter() - started)
                time.sleep(0.02)

    limits = httpx.Limits(max_connections=100)
    with (
        httpx.Client(limits=limits, timeout=60, trust_env=False) as client,
        ThreadPoolExecutor(101) as threads,
    ):
        watcher = threads.submit(ping)
        jobs = [
            threads.submit(client.post, f"{vision_url}/v1/vision/scaffold", content=data, headers=headers)
            for _ in range(100)
        ]
        responses = [job.result() for job in jobs]
        done.set()
        watcher.result()
    statuses = {response.status_code for response in responses}
    assert statuses <= {200, 503}
    assert sum(response.status_code == 200 for response in responses) >= 34
    for response in responses:
        if response.status_code == 503:
            assert response.json()["code"] == "busy"
            assert int(response.headers["Retry-After"]) >= 1
    assert sorted(pings)[len(pings) // 2] < 0.5


def test_a_full_service_says_busy_and_a_slow_image_times_out() -> None:
    settings = vision_settings(vision_workers=1, vision_queue=0, vision_task_seconds=0.8)
    headers = {"Authorization": f"Bearer {token()}"}
    options = {"options": '{"output": {"format": "webp"}, "resize": {"max_side": null}}'}
    files = [("image", ("x.png", data)) for data in SLOW[:3]]
    with (
        serving(create_app(settings)) as url,
        httpx.Client(base_url=f"{url}/v1/vision", headers=headers, timeout=60, trust_env=False) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        slow = threads.submit(client.post, "/sequence", files=files, data=options)
        time.sleep(0.3)
        busy = client.post("/scaffold", files={"image": JPEG})
        assert (busy.status_code, busy.json().get("code")) == (503, "busy")
        timed_out = slow.result()
        assert (timed_out.status_code, timed_out.json().get("code")) == (504, "timeout")
        assert client.post("/scaffold", files={"image": JPEG}).status_code == 200


def test_readiness_metrics_and_identity(vision_url: str) -> None:
    assert httpx.get(f"{vision_url}/readyz").json()["status"] == "ready"
    assert httpx.get(f"{vision_url}/v1/vision/capabilities").status_code == 401
    stranger = Principal(key_id="key_2", tenant="t", scopes=frozenset({"sql"}))
    refused = httpx.get(
        f"{vision_url}/v1/vision/capabilities", headers={"Authorization": f"Bearer {token(stranger)}"}
    )
    assert refused.status_code == 403
    admin = Principal(key_id="key_3", tenant="t", scopes=frozenset({"admin"}))
    metrics = httpx.get(f"{vision_url}/metrics", headers={"Authorization": f"Bearer {token(admin)}"})
    assert "latticework_vision_load" in metrics.text
