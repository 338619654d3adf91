"""Does RQ 3 (SpawnWorker, JSON serializer) keep a running job through a Redis restart? And what does it cost?

Run: `python -m benchmarks.jobs.rq_probe`. The answers are quoted in docs/decisions/003-own-lease-queue.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from benchmarks.jobs.rq_tasks import noop, steps
from deploy.redis_server import RedisServer, start_redis

WORKER = (
    "import sys, redis;"
    "from rq.worker import {kind} as W; from rq.serializers import JSONSerializer;"
    "W(['probe'], connection=redis.Redis.from_url(sys.argv[1]), serializer=JSONSerializer,"
    " worker_ttl=30, job_monitoring_interval=5).work(logging_level='ERROR')"
)
STEPS = 20
OUTAGE = 7.0  # longer than the monitoring interval, so that a heartbeat falls into it


def start_worker(kind: str, url: str) -> subprocess.Popen[bytes]:
    """One RQ worker process."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER.format(kind=kind), url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def queue_at(server: RedisServer) -> Queue:
    return Queue("probe", connection=redis.Redis.from_url(server.url), serializer=JSONSerializer)


def restart_during_job(folder: Path, *, keep_data: bool) -> dict[str, Any]:
    """Take Redis away for 7 s in the middle of a job of 20 s, with or without its data."""
    server = start_redis(folder / "redis")
    address = urlsplit(server.url)
    worker = start_worker("SpawnWorker", server.url)
    ledger = folder / "ledger"
    try:
        queue_at(server).enqueue(steps, str(ledger), STEPS, job_timeout=600)
        while not ledger.exists():
            time.sleep(0.05)
        time.sleep(2)
        server.kill()
        if not keep_data:
            for path in sorted((folder / "redis").rglob("*"), reverse=True):
                path.unlink() if path.is_file() else path.rmdir()
        time.sleep(OUTAGE)
        server = start_redis(folder / "redis", address.port, address.password)
        time.sleep(STEPS + 12)
        recorded = len(ledger.read_text().splitlines())
        worker_exit = worker.poll()
        statuses = [job.get_status().value for job in _jobs(server)]
        return {"steps_done": recorded, "worker_exit": worker_exit, "status_in_redis": statuses}
    finally:
        worker.kill()
        worker.wait()
        server.stop()


def _jobs(server: RedisServer) -> list[Any]:
    connection = redis.Redis.from_url(server.url, decode_responses=True)
    names = [str(key).removeprefix("rq:job:") for key in connection.scan_iter("rq:job:????????-*")]
    connection = redis.Redis.from_url(server.url)
    return [
        Job.fetch(name, connection=connection, serializer=JSONSerializer) for name in names if ":" not in name
    ]


def cost(folder: Path, kind: str, jobs: int) -> dict[str, float]:
    """Jobs per second with one worker, and seconds from submit to the first line of the job."""
    server = start_redis(folder / f"redis-{kind}")
    worker = start_worker(kind, server.url)
    try:
        queue = queue_at(server)
        latencies = []
        for number in range(6):
            stamp = folder / f"{kind}-{number}"
            begun = time.time()
            queue.enqueue(noop, str(stamp))
            while not stamp.exists() or not stamp.read_text():
                time.sleep(0.005)
            latencies.append(float(stamp.read_text()) - begun)
            time.sleep(0.3)
        begun = time.perf_counter()
        last = [queue.enqueue(noop) for _ in range(jobs)][-1]
        while not last.is_finished:
            time.sleep(0.01)
        return {
            "jobs_per_second": jobs / (time.perf_counter() - begun),
            "submit_to_start_median_s": sorted(latencies[1:])[2],
        }
    finally:
        worker.kill()
        worker.wait()
        server.stop()


def main() -> None:
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report["spawn"] = cost(folder, "SpawnWorker", 30)
        report["fork"] = cost(folder, "Worker", 100)
        for keep in (True, False):
            place = folder / f"keep-{keep}"
            place.mkdir()
            report[f"redis restarted {'with' if keep else 'without'} data"] = restart_during_job(
                place, keep_data=keep
            )
    print(json.dumps(report, indent=2))
    results = Path(__file__).parent / "results"
    results.mkdir(exist_ok=True)
    (results / "rq_probe.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
