"""How many labels an OCR model reads at their places: profiles side by side.

    python -m benchmarks.vision.legibility

The eyes are RapidOCR with the PP-OCR weights inside its wheel. Images: three photo-like ones, flat
grey, noise and white, at five widths; the mean recall of 36 labels over the six.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.vision.photos import flat, noise, photo
from benchmarks.vision.report import print_table, write_json
from services.vision.scaffold import OverlayOptions, draw_overlay

Pixels = NDArray[np.uint8]
WIDTHS = (320, 448, 640, 1024, 1920)
GATE = 0.98
GATE_FROM = 448
VARIANTS: dict[str, OverlayOptions] = {
    "paper": OverlayOptions(profile="paper"),
    "legible, no plates": OverlayOptions(plate="off"),
    "legible": OverlayOptions(),
    "legible, plates everywhere": OverlayOptions(plate=160),
}
IMAGES: dict[str, Callable[[int, int], Pixels]] = {
    "photo 1": lambda w, h: photo(w, h, 0),
    "photo 2": lambda w, h: photo(w, h, 1),
    "photo 3": lambda w, h: photo(w, h, 2),
    "grey": lambda w, h: flat(w, h, 128),
    "noise": lambda w, h: noise(w, h),
    "white": lambda w, h: flat(w, h, 255),
}


@dataclass(frozen=True)
class Recall:
    """Mean recall of one variant at one width, and per image; share of pixels the marks change."""

    variant: str
    width: int
    mean: float
    per_image: dict[str, float]
    min_contrast: float
    overlaps: int
    changed: float


def measure(variant: str, width: int, images: Iterable[str] = IMAGES) -> Recall:
    """Draw, read, count."""
    from services.vision.work.ocr import read_labels

    per_image: dict[str, float] = {}
    contrasts: list[float] = []
    changed: list[float] = []
    overlaps = 0
    for name in images:
        ground = IMAGES[name](width, width * 3 // 4)
        drawn = draw_overlay(ground.copy(), VARIANTS[variant])
        reads = read_labels(drawn)
        per_image[name] = sum(read["correct"] for read in reads) / len(reads)
        contrasts.append(drawn.legibility.min_contrast)
        overlaps += drawn.legibility.overlaps
        changed.append(float((drawn.pixels != ground).any(axis=2).mean()))
    mean = sum(per_image.values()) / len(per_image)
    return Recall(variant, width, mean, per_image, min(contrasts), overlaps, sum(changed) / len(changed))


def gate(rows: Iterable[Recall]) -> list[str]:
    """What breaks the promise: legible >= 0.98 from 448 px on, and never below paper."""
    means = {(row.variant, row.width): row.mean for row in rows}
    broken: list[str] = []
    for (variant, width), mean in means.items():
        if variant != "legible":
            continue
        if width >= GATE_FROM and mean < GATE:
            broken.append(f"legible at {width} px: {mean:.3f} < {GATE}")
        paper = means.get(("paper", width), 0.0)
        if mean < paper:
            broken.append(f"legible at {width} px: {mean:.3f} < paper's {paper:.3f}")
    return broken


def main() -> None:
    """Entry of `python -m benchmarks.vision.legibility`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = parser.parse_args()
    rows = [measure(variant, width) for width in arguments.widths for variant in arguments.variants]
    table = [
        [str(width), *(f"{row.mean:.3f}" for row in rows if row.width == width)] for width in arguments.widths
    ]
    print_table(["width", *arguments.variants], table)
    print_table(
        ["width, variant", "min contrast", "overlaps", "pixels changed"],
        [
            [f"{r.width}, {r.variant}", f"{r.min_contrast:.2f}", str(r.overlaps), f"{100 * r.changed:.1f} %"]
            for r in rows
        ],
    )
    broken = gate(rows)
    print("gate:", "; ".join(broken) or "kept")
    write_json("legibility", {"rows": rows, "broken": broken})


if __name__ == "__main__":
    main()
