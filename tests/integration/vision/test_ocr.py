"""Legibility by OCR: the gate, the comparison with the paper's profile, looking twice.

A handful of images in the normal run; `-m slow` measures the whole tables of the benchmarks.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from benchmarks.vision.legibility import GATE, WIDTHS, Case, Recall, cases, gate, measure
from benchmarks.vision.zoom import compare
from services.vision.engine import Engine
from tests.unit.vision.images import animated, picture, save

pytestmark = pytest.mark.skipif(not Engine.has_ocr(), reason="needs the extra `ocr`")


def test_the_gate_at_its_smallest_width() -> None:
    """448 px, a photo and noise: at least 0.98 of the labels, and never below the paper's profile."""
    images = ("photo 1", "noise")
    rows = [measure(Case(variant, 448, images)) for variant in ("paper", "legible")]
    assert gate(rows) == []
    paper, legible = rows
    assert legible.mean >= GATE > paper.mean
    assert legible.overlaps == 0
    assert legible.min_contrast >= 4.5 > paper.min_contrast


def test_the_gate_would_notice() -> None:
    """A check that cannot fail checks nothing: the paper's rows in place of the legible ones."""
    row = measure(Case("paper", 320, ("noise",)))
    assert row.mean < 0.5
    assert len(gate([Recall(Case("legible", 448), row.mean), Recall(Case("paper", 448), 1.0)])) == 2
    assert gate([Recall(Case("legible", 320), row.mean), Recall(Case("paper", 320), row.mean)]) == []


async def test_a_crop_shows_what_the_whole_image_cannot() -> None:
    counts = await compare(14, range(1), ("whole", "clean"))
    assert counts["whole"] == 0
    assert counts["clean"] == 1


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_table_of_legibility() -> None:
    rows = [measure(case) for case in cases(WIDTHS, ["paper", "legible"])]
    assert gate(rows) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_eighteen_codes_with_and_without_a_crop() -> None:
    """Published figures of the specification: 1 of 18 from the whole image, 18 of 18 from the crop."""
    small = await compare(14, range(18))
    assert small["whole"] <= 3
    assert small["clean"] >= 17
    large = await compare(18, range(18))
    assert large["whole"] < large["clean"] >= 17


def legibility(client: httpx.Client, image: bytes, **options: Any) -> httpx.Response:
    return client.post("/legibility", files={"image": image}, data={"options": json.dumps(options)})


def test_the_route_reads_every_label(client: httpx.Client) -> None:
    response = legibility(client, save(picture(320, 240), "PNG"), rows=4, cols=4)
    answer = response.json()
    assert answer["labels"] == len(answer["reads"]) == 16
    assert answer["recall"] >= GATE
    assert all(
        read["label"] in (read["read"] or "").replace(" ", "") for read in answer["reads"] if read["correct"]
    )
    moving = legibility(client, animated("GIF"), rows=1, cols=1, frame="all")
    assert (moving.status_code, moving.json().get("warnings")) == (200, ["animated"])
    hidden = legibility(client, save(picture(240, 180), "PNG"), rows=2, cols=2, no_labels=True).json()
    assert hidden["recall"] == 0


def test_without_the_extra_the_route_says_how_to_get_it(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "has_ocr", staticmethod(lambda: False))
    response = legibility(client, save(picture(), "PNG"))
    assert (response.status_code, response.json()["code"]) == (503, "ocr_not_installed")
    assert "`ocr`" in response.json()["detail"]
