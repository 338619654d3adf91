"""Reading labels back with an OCR engine (RapidOCR, the PP-OCR weights inside its wheel).

The optional extra `ocr`; imported by the legibility job alone, in a process of its own.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from rapidocr import RapidOCR
from rapidocr.utils.output import RapidOCROutput

from services.vision.scaffold.colour import Pixels
from services.vision.scaffold.drawing import Overlay

_FOLD = str.maketrans("（），：", "(),:", " \t")


@dataclass(frozen=True)
class ReadText:
    """A line of text and the box around it, (left, top, right, bottom) in pixels."""

    text: str
    score: float
    box: tuple[float, float, float, float]


@lru_cache(maxsize=1)
def _engine() -> RapidOCR:
    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    return RapidOCR(
        params={
            "Global.log_level": "error",
            "Global.use_cls": False,
            "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        }
    )


def read_texts(pixels: Pixels) -> list[ReadText]:
    """All text in pixels (H, W, 3)."""
    found = _engine()(pixels[:, :, ::-1])  # the engine expects BGR
    if not isinstance(found, RapidOCROutput):
        raise TypeError("the OCR engine answered with one of its parts")
    if found.boxes is None or found.txts is None or found.scores is None:
        return []
    texts: list[ReadText] = []
    for corners, text, score in zip(found.boxes, found.txts, found.scores, strict=True):
        xs, ys = [float(x) for x, _ in corners], [float(y) for _, y in corners]
        texts.append(ReadText(text, float(score), (min(xs), min(ys), max(xs), max(ys))))
    return texts


def fold(text: str) -> str:
    """Text without spaces, full-width brackets and commas made plain."""
    return text.translate(_FOLD)


def read_labels(drawn: Overlay) -> list[dict[str, Any]]:
    """For every label what was read at its place; correct where that contains the label.

    A read counts for a label when its box covers the middle of the label's box.
    """
    texts = read_texts(drawn.pixels)
    reads: list[dict[str, Any]] = []
    for dot in drawn.dots:
        box = dot.label_box
        x, y = (box.left + box.right) / 2, (box.top + box.bottom) / 2
        here = [t for t in texts if t.box[0] <= x <= t.box[2] and t.box[1] <= y <= t.box[3]]
        correct = any(dot.label in fold(text.text) for text in here)
        best = max(here, key=lambda text: (dot.label in fold(text.text), text.score), default=None)
        reads.append(
            {
                "label": dot.label,
                "read": best.text if best else None,
                "score": round(best.score, 3) if best else None,
                "correct": correct,
            }
        )
    return reads
