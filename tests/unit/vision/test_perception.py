"""The loops of active perception and coarse-to-fine, with scripted eyes and a paper camera."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.vision.scaffold.affine import Affine
from services.vision.scaffold.geometry import Box, Matrix, crop_box, nearest_dot
from services.vision.scaffold.perception import (
    Finding,
    LookOptions,
    Mark,
    PhaseFinished,
    PhaseStarted,
    View,
    look,
)


class PaperCamera:
    """Cuts nothing, but knows what it would have cut."""

    def __init__(self, size: tuple[int, int], model_side: int = 768) -> None:
        self.size = size
        self.model_side = model_side
        self.views: list[tuple[Box | None, Mark, Matrix, View]] = []

    async def view(self, box: Box | None, mark: Mark, matrix: Matrix) -> View:
        part = box or Box(0, 0, *self.size)
        width, height = part.size
        scale = self.model_side / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        transform = Affine.resize(size, part.size).then(Affine.translation(part.left, part.top))
        view = View(f"view:{len(self.views)}", size, transform)
        self.views.append((box, mark, matrix, view))
        return view


class ScriptedEyes:
    """Sees where the target is, in upright pixels, and names the nearest dot of the last view."""

    def __init__(self, camera: PaperCamera, target: tuple[float, float]) -> None:
        self.camera, self.target = camera, target
        self.asked: list[list[dict[str, Any]]] = []

    async def __call__(self, messages: list[dict[str, Any]]) -> str:
        self.asked.append(messages)
        _, _, matrix, view = self.camera.views[-1]
        x, y = view.transform.inverse().apply(*self.target)
        dot = nearest_dot(matrix, view.size, x, y)
        return f"It is near [[({dot.row},{dot.col})]]."


def scripted(*replies: str) -> Callable[[list[dict[str, Any]]], Any]:
    left = list(replies)

    async def ask(messages: list[dict[str, Any]]) -> str:
        return left.pop(0)

    return ask


async def run(camera: PaperCamera, ask: Any, options: LookOptions) -> list[Any]:
    return [event async for event in look(camera, ask, "Which colour?", options)]


async def test_a_plain_answer_is_one_phase() -> None:
    camera = PaperCamera((1000, 500))
    events = await run(camera, scripted("Red at (1,2). [[red]]"), LookOptions())
    assert [type(event) for event in events] == [PhaseStarted, PhaseFinished, Finding]
    assert [mark for _, mark, _, _ in camera.views] == ["none", "overlay"]
    assert events[-1].answer == "red"
    assert events[-1].point is None


async def test_an_answer_that_names_a_dot_is_a_point() -> None:
    (*_, finding) = await run(
        PaperCamera((700, 700)), scripted("[[(2,3)]]"), LookOptions(mode="scaffold_single")
    )
    assert finding.point == (300, 200)


async def test_active_perception_crops_around_the_named_dot() -> None:
    camera = PaperCamera((1400, 700))
    options = LookOptions(strategy="active_perception")
    events = await run(camera, scripted("[[(2,5)]]", "A code: [[K7]]"), options)
    located, zoomed = [event for event in events if isinstance(event, PhaseStarted)]
    assert located.crop is None
    assert "Which colour?" in located.prompt.user
    assert zoomed.crop == crop_box(Matrix(6, 6), (1400, 700), [(2, 5)], 2)
    assert "(2,5)" in zoomed.prompt.system
    assert zoomed.prompt.images == ("original", "overlay", "crop")
    assert camera.views[-1][:2] == (zoomed.crop, "none")
    assert [view.url for view in zoomed.views] == ["view:0", "view:1", "view:2"]
    assert (events[-1].answer, events[-1].path) == ("K7", ((2, 5),))


async def test_the_published_loop_crops_the_marked_image() -> None:
    camera = PaperCamera((1400, 700))
    options = LookOptions(strategy="active_perception", crop_mark="overlay")
    await run(camera, scripted("[[(2,5)]]", "[[K7]]"), options)
    assert camera.views[-1][1] == "overlay"


async def test_active_perception_ignores_places_that_do_not_exist() -> None:
    camera = PaperCamera((700, 700))
    options = LookOptions(strategy="active_perception", max_crops=2)
    await run(camera, scripted("(9,9), then (2,2), (2,2) and (3,4) or (5,5)", "[[x]]"), options)
    crops = [box for box, _, _, _ in camera.views if box is not None]
    assert crops == [crop_box(Matrix(6, 6), (700, 700), [dot], 2) for dot in ((2, 2), (3, 4))]


async def test_active_perception_answers_from_the_whole_where_nothing_is_named() -> None:
    events = await run(
        PaperCamera((700, 700)),
        scripted("I cannot tell.", "[[blue]]"),
        LookOptions(strategy="active_perception"),
    )
    phases = [event.phase for event in events if isinstance(event, PhaseStarted)]
    assert phases == ["locate", "answer"]
    assert events[-1].answer == "blue"


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(800, 4000), st.integers(800, 4000)), st.data())
async def test_coarse_to_fine_ends_on_the_target(size: tuple[int, int], data: st.DataObject) -> None:
    """Two levels bring any pixel between the outermost dots within half a cell of both matrices."""
    camera = PaperCamera(size)
    target = (
        data.draw(st.integers(size[0] // 13, size[0] - size[0] // 13 - 1)),
        data.draw(st.integers(size[1] // 9, size[1] - size[1] // 9 - 1)),
    )
    options = LookOptions(strategy="coarse_to_fine")
    (*_, finding) = await run(camera, ScriptedEyes(camera, target), options)
    assert len(finding.path) == 2
    assert finding.point is not None
    fine_width, fine_height = 2 * size[0] / 13 / 7, 2 * size[1] / 9 / 7
    assert abs(finding.point[0] - target[0]) <= fine_width + 2
    assert abs(finding.point[1] - target[1]) <= fine_height + 2
    assert finding.box.left - 1 <= target[0] <= finding.box.right
    assert finding.box.top - 1 <= target[1] <= finding.box.bottom


async def test_coarse_to_fine_resolves_a_seventysecond_of_the_width() -> None:
    camera = PaperCamera((7200, 4800), model_side=2000)
    (*_, finding) = await run(
        camera, ScriptedEyes(camera, (3017, 1999)), LookOptions(strategy="coarse_to_fine")
    )
    assert abs(finding.point[0] - 3017) <= 7200 / 72
    assert finding.transform is not None


async def test_coarse_to_fine_stops_where_the_model_does() -> None:
    camera = PaperCamera((1300, 900))
    events = await run(camera, scripted("[[(4,6)]]", "gone"), LookOptions(strategy="coarse_to_fine"))
    assert events[-1].path == ((4, 6),)
    assert events[-1].point == pytest.approx((600, 400), abs=1.5)
    assert events[-1].reply == "gone"


async def test_the_locate_prompt_shows_the_form_of_labels() -> None:
    camera = PaperCamera((700, 700))
    options = LookOptions(strategy="active_perception", label_style="A1", locale="de")
    events = await run(camera, scripted("[[B3]]", "[[x]]"), options)
    assert re.search(r"\[\[A2\]\]", events[0].prompt.system)
    assert "Frage: Which colour?" in events[0].prompt.user
    assert events[-1].path == ((2, 3),)
