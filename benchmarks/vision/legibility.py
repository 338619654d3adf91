"""How many labels an OCR model reads at their places: profiles side by side.

    python -m benchmarks.vision.legibility

The eyes are RapidOCR with the PP-OCR weights inside its wheel. Images: three photo-like ones, flat
grey, noise and white, at five widths; the mean recall of 36 labels over the six. Then the photos
alone, 1024 px wide, with three numbers to a label and denser matrices. Every row is written as soon
as it is there; `--resume` goes on behind the last one, `--seconds` stops in between.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.vision.photos import flat, noise, photo
from benchmarks.vision.report import print_table, read_json, write_json
from services.vision.scaffold import Matrix, OverlayOptions, draw_overlay

Pixels = NDArray[np.uint8]
WIDTHS = (320, 448, 640, 1024, 1920)
DENSE = ((6, 6), (8, 10), (12, 12))
DENSE_WIDTH, DENSE_T = 1024, 2
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
PHOTOS = ("photo 1", "photo 2", "photo 3")


@dataclass(frozen=True)
class Case:
    """What is drawn and on what. `t` is the image index of labels with three numbers."""

    variant: str
    width: int
    images: tuple[str, ...] = tuple(IMAGES)
    matrix: tuple[int, int] = (6, 6)
    t: int | None = None

    @property
    def options(self) -> OverlayOptions:
        return replace(VARIANTS[self.variant], matrix=Matrix(*self.matrix), image_index=self.t)


@dataclass(frozen=True)
class Recall:
    """Mean recall of a case, and per image; share of pixels the marks change."""

    case: Case
    mean: float
    per_image: dict[str, float] = field(default_factory=dict)
    min_contrast: float = 0.0
    overlaps: int = 0
    changed: float = 0.0


def measure(case: Case) -> Recall:
    """Draw, read, count."""
    from services.vision.work.ocr import read_labels

    per_image: dict[str, float] = {}
    contrasts: list[float] = []
    changed: list[float] = []
    overlaps = 0
    for name in case.images:
        ground = IMAGES[name](case.width, case.width * 3 // 4)
        drawn = draw_overlay(ground.copy(), case.options)
        reads = read_labels(drawn)
        per_image[name] = sum(read["correct"] for read in reads) / len(reads)
        contrasts.append(drawn.legibility.min_contrast)
        overlaps += drawn.legibility.overlaps
        changed.append(float((drawn.pixels != ground).any(axis=2).mean()))
    mean = sum(per_image.values()) / len(per_image)
    return Recall(case, mean, per_image, min(contrasts), overlaps, sum(changed) / len(changed))


def gate(rows: Iterable[Recall]) -> list[str]:
    """What breaks the promise: legible >= 0.98 from 448 px on, and never below paper."""
    means = {row.case: row.mean for row in rows}
    broken: list[str] = []
    for case, mean in means.items():
        if case.variant != "legible":
            continue
        where = f"legible at {case.width} px, {case.matrix[0]} x {case.matrix[1]}"
        if case.width >= GATE_FROM and mean < GATE:
            broken.append(f"{where}: {mean:.3f} < {GATE}")
        paper = means.get(replace(case, variant="paper"), 0.0)
        if mean < paper:
            broken.append(f"{where}: {mean:.3f} < paper's {paper:.3f}")
    return broken


def cases(widths: Sequence[int], variants: Sequence[str]) -> list[Case]:
    """The table of widths, then that of matrices."""
    table = [Case(variant, width) for width in widths for variant in variants]
    dense = [
        Case(variant, DENSE_WIDTH, PHOTOS, matrix, DENSE_T)
        for matrix in DENSE
        for variant in ("paper", "legible")
        if variant in variants
    ]
    return table + (dense if DENSE_WIDTH in widths else [])


def _from_json(row: dict[str, Any]) -> Recall:
    case = row.pop("case")
    case |= {"images": tuple(case["images"]), "matrix": tuple(case["matrix"])}
    return Recall(Case(**case), **row)


def _print(rows: Sequence[Recall], variants: Sequence[str]) -> None:
    found = {row.case: row for row in rows}
    recall = {case: f"{row.mean:.3f}" for case, row in found.items()}
    widths = sorted({case.width for case in found if case.t is None})
    print_table(
        ["width", *variants],
        [[str(width), *(recall.get(Case(name, width), "") for name in variants)] for width in widths],
    )
    print_table(
        [f"photos, {DENSE_WIDTH} px, (t,r,c)", "paper", "legible"],
        [
            [f"{matrix[0]} x {matrix[1]}"]
            + [
                recall.get(Case(name, DENSE_WIDTH, PHOTOS, matrix, DENSE_T), "")
                for name in ("paper", "legible")
            ]
            for matrix in DENSE
        ],
    )
    print_table(
        ["width, variant", "min contrast", "overlaps", "pixels changed"],
        [
            [
                f"{row.case.width}, {row.case.variant}",
                f"{row.min_contrast:.2f}",
                str(row.overlaps),
                f"{100 * row.changed:.1f} %",
            ]
            for row in rows
            if row.case.t is None
        ],
    )


def main() -> None:
    """Entry of `python -m benchmarks.vision.legibility`; exits 1 where the gate is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", type=int, nargs="*", default=WIDTHS)
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--resume", action="store_true", help="keep the rows of the same versions")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no row after these")
    arguments = parser.parse_args()
    kept = read_json("legibility") if arguments.resume else None
    ocr = version("rapidocr")
    rows = [_from_json(row) for row in kept["rows"]] if kept and kept["ocr"] == ocr else []
    known = {row.case for row in rows}
    started = time.monotonic()
    wanted = cases(arguments.widths, arguments.variants)
    for case in wanted:
        if case in known or time.monotonic() - started > arguments.seconds:
            continue
        rows.append(measure(case))
        write_json("legibility", {"ocr": ocr, "rows": rows, "broken": gate(rows)})
    _print(rows, arguments.variants)
    missing = len(set(wanted) - {row.case for row in rows})
    broken = gate(rows)
    print("gate:", "; ".join(broken) or "kept", f"({missing} rows to go)" if missing else "")
    if broken:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
