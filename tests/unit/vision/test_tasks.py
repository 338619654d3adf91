"""Jobs of a worker: what it keeps from one to the next must not show."""

from __future__ import annotations

from typing import Any

import orjson
from PIL import Image

from benchmarks.vision.photos import flat, noise, photo
from services.vision.scaffold import Matrix, OverlayOptions
from services.vision.work.tasks import OverlayJob, ViewJob, overlay, to_parameters, view
from tests.unit.vision.images import oriented_jpeg, picture, save

JOB = orjson.dumps(to_parameters(OverlayJob()))


def drawn(data: bytes, parameters: bytes = JOB) -> tuple[list[dict[str, Any]], list[bytes]]:
    """The entries without their times, and the images."""
    result, produced = overlay(parameters, [data])
    for entry in result["pictures"]:
        del entry["timing_ms"]
    return result["pictures"], produced


def test_a_crop_moves_the_dots_of_its_own_answer_alone() -> None:
    data = oriented_jpeg(6, 640, 480)
    before = drawn(data)
    crop = ViewJob(mark="overlay", dots=((2, 2), (3, 3)))
    first, _ = view(orjson.dumps(to_parameters(crop)), [data])
    again, _ = view(orjson.dumps(to_parameters(crop)), [data])
    assert first["dots"] == again["dots"] != before[0][0]["dots"]
    assert drawn(data) == before


def test_images_of_one_size_have_inks_of_their_own() -> None:
    """Light, dark, noise and a photo, one after the other and once more in another order."""
    images = [flat(640, 480, 250), flat(640, 480, 5), noise(640, 480), photo(640, 480)]
    first = [overlay_inks(pixels) for pixels in images]
    assert first[0] == {("#000000", False)}
    assert first[1] == {("#ffffff", False)}
    assert all(plate for _, plate in first[2])
    assert [overlay_inks(pixels) for pixels in reversed(images)] == first[::-1]


def overlay_inks(pixels: Any) -> set[tuple[str, bool]]:
    """Colour and plate of the labels drawn on pixels (H, W, 3)."""
    entries, _ = drawn(save(Image.fromarray(pixels), "PNG"))
    return {(dot["color"], dot["plate"]) for dot in entries[0]["dots"]}


def test_options_are_kept_apart() -> None:
    data = save(picture(640, 480), "PNG")
    jobs = {
        name: orjson.dumps(to_parameters(OverlayJob(overlay=options)))
        for name, options in {
            "plain": OverlayOptions(),
            "red": OverlayOptions(color="#ff0000"),
            "dots": OverlayOptions(no_labels=True),
            "labels": OverlayOptions(no_dots=True),
            "wide": OverlayOptions(matrix=Matrix(3, 8)),
        }.items()
    }
    first = {name: drawn(data, job) for name, job in jobs.items()}
    assert len({produced[0] for _, produced in first.values()}) == len(jobs)
    assert {name: drawn(data, job) for name, job in jobs.items()} == first
