"""Ask every mode the same scenes through `/v1/vision/ask` and score the answers.

Runs against any vision model that the gateway serves:

    python -m benchmarks.vision.harness --url http://127.0.0.1:8080 --key lw_... --scenes 40

The tests run it against a scripted endpoint: that shows that orchestration and scoring work, and
says nothing about intelligence.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import httpx

from benchmarks.vision.scenes import Scene, make_scene

MODES = ("direct", "cot", "scaffold", "scaffold_single")
NORMAL_95 = 1.959963984540054


def wilson_interval(hits: int, count: int) -> tuple[float, float]:
    """The 95 % Wilson score interval of a share."""
    if count == 0:
        return 0.0, 1.0
    share, z2 = hits / count, NORMAL_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = NORMAL_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Score:
    """Answers of one mode with one strategy."""

    mode: str
    strategy: str
    count: int
    hits: int
    not_found: int
    calls: int

    def row(self) -> dict[str, object]:
        low, high = wilson_interval(self.hits, self.count)
        return {
            "mode": self.mode,
            "strategy": self.strategy,
            "n": self.count,
            "accuracy": round(self.hits / self.count, 4) if self.count else None,
            "wilson_95": [round(low, 4), round(high, 4)],
            "not_found": self.not_found,
            "calls": self.calls,
        }


def is_correct(answer: str | None, scene: Scene) -> bool:
    """Whether the bracketed answer names the truth and no other choice."""
    words = " ".join((answer or "").lower().replace(".", " ").split())
    named = [choice for choice in scene.choices if f" {choice} " in f" {words} "]
    return named == [scene.answer]


def encode(scene: Scene) -> bytes:
    sink = io.BytesIO()
    scene.image.save(sink, "JPEG", quality=90)
    return sink.getvalue()


def evaluate(
    client: httpx.Client,
    scenes: Sequence[Scene],
    modes: Iterable[str] = MODES,
    strategy: str = "answer",
    model: str | None = None,
) -> list[Score]:
    """Score every mode on the scenes. `client` has the base address and the key."""
    scores: list[Score] = []
    for mode in modes:
        hits = not_found = calls = 0
        for scene in scenes:
            options = {"question": scene.question, "mode": mode, "strategy": strategy, "model": model}
            response = client.post(
                "/v1/vision/ask",
                files={"image": ("scene.jpg", encode(scene), "image/jpeg")},
                data={"options": json.dumps(options)},
            )
            response.raise_for_status()
            body = response.json()
            hits += is_correct(body["answer"], scene)
            not_found += body["answer"] is None
            calls += body["usage"]["calls"]
        scores.append(Score(mode, strategy, len(scenes), hits, not_found, calls))
    return scores


def main() -> None:
    """Entry of `python -m benchmarks.vision.harness`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", required=True)
    parser.add_argument("--model", help="instead of the configured one")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--strategy", default="answer")
    arguments = parser.parse_args()
    headers = {"Authorization": f"Bearer {arguments.key}"}
    scenes = [make_scene(seed) for seed in range(arguments.scenes)]
    with httpx.Client(base_url=arguments.url, headers=headers, timeout=600) as client:
        for score in evaluate(client, scenes, strategy=arguments.strategy, model=arguments.model):
            print(json.dumps(score.row()))


if __name__ == "__main__":
    main()
