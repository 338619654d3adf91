"""Does looking closer help? Active perception with an OCR model as the eyes.

    python -m benchmarks.vision.zoom

A code of six characters is written on a 1920-px photo, too small to be read once the image has
been reduced to the 768 px that the model gets. The loop of the service is told the true nearest
dot, cuts its surroundings from the full resolution and reads again.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from PIL import Image, ImageDraw

from benchmarks.vision.photos import photo
from benchmarks.vision.report import print_table, write_json
from services.vision.imaging import EncodeOptions, Resize
from services.vision.scaffold import Affine, Box, LookOptions, Matrix, OverlayOptions, look, nearest_dot
from services.vision.scaffold.fonts import label_font
from services.vision.scaffold.perception import Finding, Mark, View
from services.vision.work.ocr import fold, read_texts
from services.vision.work.tasks import ViewJob, to_parameters, view

SIZE = (1920, 1080)
MODEL_SIDE = 768
LOOKS: dict[str, Mark | None] = {"whole": None, "overlay": "overlay", "clean": "none"}
ALPHABET = "ABCDEFHKLMNPRTUVXY3467"
"""Without letters and digits that are each other's look-alikes."""


@dataclass(frozen=True)
class Target:
    """A photo with a code on it."""

    image: bytes
    code: str
    place: tuple[int, int]


def make_target(seed: int, font_px: int) -> Target:
    """Write a code somewhere on a photo, white on a dark plate as on a sign."""
    generator = random.Random(seed)
    code = "".join(generator.choices(ALPHABET, k=6))
    image = Image.fromarray(photo(*SIZE, seed % 3))
    draw = ImageDraw.Draw(image)
    font = label_font(font_px)
    x, y = generator.randint(100, SIZE[0] - 200), generator.randint(100, SIZE[1] - 140)
    left, top, right, bottom = draw.textbbox((x, y), code, font=font)
    draw.rectangle((left - 5, top - 4, right + 5, bottom + 4), fill=(20, 40, 60))
    draw.text((x, y), code, fill=(240, 240, 240), font=font)
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=1)
    return Target(sink.getvalue(), code, (int(left + right) // 2, int(top + bottom) // 2))


@dataclass
class LocalCamera:
    """The views of the service, made in this process."""

    image: bytes
    size: tuple[int, int]

    async def view(self, box: Box | None, mark: Mark, matrix: Matrix) -> View:
        job = ViewJob(
            overlay=OverlayOptions(matrix=matrix),
            encode=EncodeOptions("jpeg", 90),
            mark=mark,
            box=box,
            resize=Resize(max_side=MODEL_SIDE),
        )
        result, (data,) = view(orjson.dumps(to_parameters(job)), [self.image])
        url = "data:image/jpeg;base64," + base64.b64encode(data).decode()
        return View(url, tuple(result["working_size"]), Affine.from_rows(result["to_upright"]))


def read_last_image(messages: list[dict[str, Any]]) -> str:
    """Everything that the OCR model reads on the last image of the messages."""
    urls = [part["image_url"]["url"] for part in messages[1]["content"] if part["type"] == "image_url"]
    with Image.open(io.BytesIO(base64.b64decode(urls[-1].partition(",")[2]))) as image:
        return fold(" ".join(text.text for text in read_texts(np.asarray(image))))


async def find_code(target: Target, crop_mark: Mark | None) -> bool:
    """Whether the code is read: in one look (None), or in two, with a crop marked or clean."""
    dot = nearest_dot(Matrix(), SIZE, *target.place)

    async def ask(messages: list[dict[str, Any]]) -> str:
        if "Do not answer yet" in messages[1]["content"][-1]["text"]:
            return f"[[({dot.row},{dot.col})]]"
        return f"[[{read_last_image(messages)}]]"

    options = LookOptions(mode="direct")
    if crop_mark is not None:
        options = LookOptions(strategy="active_perception", crop_mark=crop_mark)
    finding: Finding | None = None
    async for event in look(LocalCamera(target.image, SIZE), ask, "What is the code?", options):
        if isinstance(event, Finding):
            finding = event
    return finding is not None and target.code in finding.reply


async def compare(font_px: int, seeds: Sequence[int], looks: Iterable[str] = LOOKS) -> dict[str, Any]:
    """Codes read from the whole image, with a marked and with a clean crop."""
    targets = [make_target(seed, font_px) for seed in seeds]
    read = {name: sum([await find_code(target, mark) for target in targets]) for name, mark in LOOKS.items()}
    return {"font_px": font_px, "n": len(targets), **read}


def main() -> None:
    """Entry of `python -m benchmarks.vision.zoom`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=18)
    parser.add_argument("--fonts", type=int, nargs="*", default=[14, 18])
    arguments = parser.parse_args()
    rows = [asyncio.run(compare(px, range(arguments.count))) for px in arguments.fonts]
    print_table(
        ["code", "whole image at 768 px", "crop with labels", "clean crop"],
        [
            [f"{r['font_px']} px", *(f"{r[name]}/{r['n']}" for name in ("whole", "overlay", "clean"))]
            for r in rows
        ],
    )
    write_json("zoom", {"rows": rows})


if __name__ == "__main__":
    main()
