"""The bare queue libraries under the same measurement: RQ (forking and spawning) and SAQ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks.jobs.rq_probe import start_worker
from benchmarks.jobs.rq_tasks import noop, started_at
from benchmarks.jobs.samples import Latency

SAQ_SCRIPT = Path(__file__).parent / "saq_peer.py"
SAQ_VERSION = "0.26.4"


@contextmanager
def rq_workers(kind: str, url: str, count: int) -> Iterator[Queue]:
    """`count` RQ workers and their queue."""
    connection = redis.Redis.from_url(url)
    connection.flushall()
    workers = [start_worker(kind, url) for _ in range(count)]
    try:
        yield Queue("probe", connection=connection, serializer=JSONSerializer)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _wait(queue: Queue, count: int) -> None:
    while queue.finished_job_registry.count < count:
        time.sleep(0.02)


def rq_throughput(kind: str, url: str, workers: int, count: int) -> float:
    """Jobs per second from the first enqueue to the last result, once every worker is warm."""
    with rq_workers(kind, url, workers) as queue:
        warm = 4 * workers
        for _ in range(warm):
            queue.enqueue(noop)
        _wait(queue, warm)
        begun = time.perf_counter()
        for _ in range(count):
            queue.enqueue(noop)
        _wait(queue, warm + count)
        return count / (time.perf_counter() - begun)


def rq_latency(kind: str, url: str, count: int) -> Latency:
    """Seconds from enqueue to the first line of the job, the queue being idle."""
    with rq_workers(kind, url, 1) as queue:
        seconds = []
        for number in range(count + 2):
            time.sleep(0.3)
            begun = time.time()
            job = queue.enqueue(started_at)
            while (result := job.latest_result()) is None or result.return_value is None:
                time.sleep(0.01)
            if number >= 2:
                seconds.append(float(result.return_value) - begun)
        return Latency.of(seconds)


def saq_environment(folder: Path) -> str | None:
    """An interpreter that has SAQ, made for this run; None when it cannot be had."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    # SAQ imports typing_extensions without naming it among its requirements.
    packages = [f"saq[redis]=={SAQ_VERSION}", "typing_extensions"]
    # An environment of its own: our PYTHONPATH would show it our packages.
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages]
    installed = subprocess.run(command, env=clean, check=False)
    return str(python) if installed.returncode == 0 else None


@contextmanager
def saq_workers(python: str, url: str, count: int) -> Iterator[None]:
    """`count` SAQ workers that run one job at a time."""
    redis.Redis.from_url(url).flushall()
    command = [python, str(SAQ_SCRIPT), "worker", url, "0"]
    workers = [subprocess.Popen(command, stderr=subprocess.DEVNULL) for _ in range(count)]
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def _saq(python: str, mode: str, url: str, count: int) -> str:
    command = [python, str(SAQ_SCRIPT), mode, url, str(count)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def saq_throughput(python: str, url: str, workers: int, count: int) -> float:
    """See `rq_throughput`."""
    with saq_workers(python, url, workers):
        return float(json.loads(_saq(python, "throughput", url, count)))


def saq_latency(python: str, url: str, count: int) -> Latency:
    """See `rq_latency`."""
    with saq_workers(python, url, 1):
        return Latency.of(json.loads(_saq(python, "latency", url, count)))
