"""Mutated files through the real service under a memory limit: no crash, no 500, no growth."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator

import httpx
import psutil
import pytest

from services.vision.app import create_app
from tests.integration.vision.conftest import token, vision_settings
from tests.integration.vision.fuzz import mutated, seeds
from tests.integration.vision.servers import serving

MEMORY_BYTES = 512 << 20
GROWTH_BYTES = 48 << 20
EXPECTED = {200, 400, 413, 415, 422}
OPTIONS = [
    {"auto_matrix": True, "resize": {"min_side": 200, "max_side": 1024}},
    {"profile": "paper", "rows": 3, "cols": 3, "frame": "all"},
    {"allow_truncated": True, "rows": 2, "cols": 2, "resize": {"min_side": 120, "max_side": 512}},
]


@pytest.fixture
def fuzzed() -> Iterator[httpx.Client]:
    """A service whose workers have 512 MiB of address space."""
    settings = vision_settings(
        vision_workers=1,
        vision_worker_memory_bytes=MEMORY_BYTES,
        vision_max_pixels=4_000_000,
        vision_task_seconds=10,
    )
    headers = {"Authorization": f"Bearer {token()}"}
    with serving(create_app(settings)) as url:
        with httpx.Client(
            base_url=f"{url}/v1/vision", headers=headers, timeout=60, trust_env=False
        ) as client:
            yield client


def worker() -> psutil.Process:
    """The one worker process of this test process."""
    children = psutil.Process(os.getpid()).children()
    (found,) = [child for child in children if str(MEMORY_BYTES) in child.cmdline()]
    return found


def run(client: httpx.Client, count: int, seed: int) -> Counter[int]:
    """Send mutated files; returns how often each status came."""
    statuses: Counter[int] = Counter()
    for index, data in enumerate(mutated(count, seed)):
        response = client.post(
            "/scaffold",
            files={"image": data},
            data={"options": json.dumps(OPTIONS[index % len(OPTIONS)])},
        )
        statuses[response.status_code] += 1
        if response.status_code != 200:
            document = response.json()
            assert response.status_code in EXPECTED, (index, document)
            assert document["code"] != "internal_error"
    return statuses


def test_hundreds_of_mutated_files(fuzzed: httpx.Client) -> None:
    for data in seeds():
        answer = fuzzed.post("/scaffold", files={"image": data}, data={"options": json.dumps(OPTIONS[0])})
        assert answer.status_code == 200, answer.text
    before = worker().pid
    statuses = run(fuzzed, 240, seed=1)
    assert statuses[200] > 24
    assert statuses[422] > 60
    assert worker().pid == before, "a worker died of a mutated file"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_mutated_files_without_growth(fuzzed: httpx.Client) -> None:
    """Memory of worker and service after the first two thousand files and after the last."""
    warm = run(fuzzed, 2_000, seed=2)
    process, first = psutil.Process(os.getpid()), worker()
    before = first.memory_info().rss, process.memory_info().rss
    statuses = warm + run(fuzzed, 8_000, seed=3)
    after = worker().memory_info().rss, process.memory_info().rss
    assert statuses.total() == 10_000
    assert set(statuses) <= EXPECTED
    assert worker().pid == first.pid, "a worker died of a mutated file"
    assert after[0] - before[0] < GROWTH_BYTES
    assert after[1] - before[1] < GROWTH_BYTES
    print(dict(statuses), [round((b - a) / 2**20, 1) for a, b in zip(before, after, strict=True)])
