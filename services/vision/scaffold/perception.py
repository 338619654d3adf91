"""Looking twice: active perception and coarse-to-fine, as orchestration over two callables.

Knows the order of the phases and what to cut out next. It does not know how an image is cut
(`Camera`) or who answers (`Ask`), so the same loop runs on a model, a script or an OCR engine.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from services.vision.scaffold.affine import Affine
from services.vision.scaffold.geometry import Box, Matrix, cell_box, crop_box
from services.vision.scaffold.labels import LabelStyle, label_text
from services.vision.scaffold.mentions import Mention, Reading, read_text
from services.vision.scaffold.prompts import Mode, Prompt, PromptOptions, build_prompt, to_messages
from services.vision.scaffold.resolve import Grid, Point
from services.vision.scaffold.templates import TEMPLATES

Strategy = Literal["answer", "active_perception", "coarse_to_fine"]
Mark = Literal["none", "overlay", "rescaffold"]
PhaseName = Literal["answer", "locate", "zoom", "refine"]

COARSE_TO_FINE = (Matrix(rows=8, cols=12), Matrix(rows=6, cols=6))
"""12 x 8 over the whole image, then 6 x 6 in the chosen cell: about 1/72 of the width."""

Ask = Callable[[list[dict[str, Any]]], Awaitable[str]]
"""Chat messages in, the reply's text out."""


@dataclass(frozen=True)
class View:
    """An image as the model gets it. `transform` maps its pixels to the upright original's."""

    url: str
    size: tuple[int, int]
    transform: Affine


class Camera(Protocol):
    """Makes views of one image; `size` is the upright original's (width, height)."""

    size: tuple[int, int]

    async def view(self, box: Box | None, mark: Mark, matrix: Matrix) -> View:
        """The part of the image in `box` (upright pixels, None for all of it).

        `overlay` draws the matrix on the whole image before cutting, so that its labels stay
        true in the crop; `rescaffold` draws it on the part alone.
        """
        ...


@dataclass(frozen=True)
class LookOptions:
    """One question. `max_crops`, `crop_radius` (cells) and `crop_mark` belong to active
    perception, `levels` to coarse-to-fine. The published loop crops the marked image
    (`crop_mark="overlay"`); clean crops are the default, since a label can hide what is looked for
    and the marked image is sent beside them anyway."""

    mode: Mode = "scaffold"
    strategy: Strategy = "answer"
    matrix: Matrix = field(default_factory=Matrix)
    label_style: LabelStyle = "(r,c)"
    answer_format: str | None = None
    locale: str = "en"
    guidelines: bool = True
    max_crops: int = 1
    crop_radius: float = 2.0
    crop_mark: Mark = "none"
    levels: tuple[Matrix, ...] = COARSE_TO_FINE

    def prompt(self, **changes: Any) -> PromptOptions:
        """The prompt options of this look, with changes."""
        plain = PromptOptions(
            mode=self.mode,
            matrix=self.matrix,
            label_style=self.label_style,
            answer_format=self.answer_format,
            locale=self.locale,
            guidelines=self.guidelines,
        )
        return replace(plain, **changes)


@dataclass(frozen=True)
class PhaseStarted:
    """A phase is about to ask; `views` are what the model will see, `crop` the box cut out of the
    upright original."""

    phase: PhaseName
    prompt: Prompt
    views: tuple[View, ...]
    crop: Box | None = None


@dataclass(frozen=True)
class PhaseFinished:
    """A phase has its reply. `target` is the dot the loop goes on with, None where it stops."""

    phase: PhaseName
    reply: str
    reading: Reading
    target: Mention | None = None


@dataclass(frozen=True)
class Finding:
    """The end of a look: the reply, its bracketed answer, the dots chosen on the way.

    `point` and `box` (upright pixels) and `transform` (last view to upright) are set where the
    look ended in a place: `box` holds all pixels nearer to the last dot than to another.
    """

    reply: str
    answer: str | None
    path: tuple[tuple[float, float], ...]
    point: Point | None = None
    box: Box | None = None
    transform: Affine | None = None


Event = PhaseStarted | PhaseFinished | Finding


async def look(camera: Camera, ask: Ask, question: str, options: LookOptions) -> AsyncIterator[Event]:
    """Ask a question about an image; yields the phases as they run and a Finding at the end.

    Whatever `ask` and `camera` raise passes through.
    """
    strategies = {
        "answer": _answer,
        "active_perception": _active_perception,
        "coarse_to_fine": _coarse_to_fine,
    }
    async for event in strategies[options.strategy](camera, ask, question, options):
        yield event


async def _whole_views(camera: Camera, prompt: Prompt, matrix: Matrix) -> list[View]:
    marks: dict[str, Mark] = {"original": "none", "overlay": "overlay"}
    return [await camera.view(None, marks[role], matrix) for role in prompt.images if role in marks]


async def _answer(camera: Camera, ask: Ask, question: str, options: LookOptions) -> AsyncIterator[Event]:
    prompt = build_prompt(question, options.prompt())
    views = await _whole_views(camera, prompt, options.matrix)
    yield PhaseStarted("answer", prompt, tuple(views))
    reply = await ask(to_messages(prompt, [view.url for view in views]))
    reading = read_text(reply, options.matrix, options.label_style)
    yield PhaseFinished("answer", reply, reading)
    yield _ended(camera, options, reply, reading, ())


def _ended(
    camera: Camera,
    options: LookOptions,
    reply: str,
    reading: Reading,
    path: tuple[tuple[float, float], ...],
) -> Finding:
    """A finding whose place is the dot named in the answer, where exactly one is."""
    named = {(m.row, m.col) for m in reading.in_answer() if m.in_range}
    place = next(iter(named)) if len(named) == 1 else None
    point = Grid(options.matrix, camera.size).at(*place) if place else None
    return Finding(reply, reading.answer, path, point)


def choose_targets(reading: Reading, limit: int) -> list[Mention]:
    """The dots to go on with: those in the answer's brackets, else all named ones; only dots that
    exist, each once, in order, at most `limit`."""
    candidates = [m for m in reading.in_answer() if m.in_range]
    candidates = candidates or [m for m in reading.mentions if m.in_range]
    distinct: dict[tuple[float, float], Mention] = {}
    for mention in candidates:
        distinct.setdefault((mention.row, mention.col), mention)
    return list(distinct.values())[:limit]


def _locate_prompt(question: str, options: LookOptions, matrix: Matrix, refine: bool) -> Prompt:
    wording = TEMPLATES[options.locale]
    example = label_text(options.label_style, matrix, 1, min(2, matrix.cols))
    words = wording.refine if refine else wording.locate
    return build_prompt(
        words.format(question=question.strip()),
        options.prompt(
            mode="scaffold_single" if refine else "scaffold",
            matrix=matrix,
            answer_format=wording.locate_format.format(example=example),
        ),
    )


async def _active_perception(
    camera: Camera, ask: Ask, question: str, options: LookOptions
) -> AsyncIterator[Event]:
    """Locate with the overlay, cut out what was named, ask again with the cut-outs beside it."""
    prompt = _locate_prompt(question, options, options.matrix, refine=False)
    views = await _whole_views(camera, prompt, options.matrix)
    whole = dict(zip(prompt.images, views, strict=True))
    yield PhaseStarted("locate", prompt, tuple(views))
    reply = await ask(to_messages(prompt, [view.url for view in views]))
    reading = read_text(reply, options.matrix, options.label_style)
    targets = choose_targets(reading, options.max_crops)
    yield PhaseFinished("locate", reply, reading, targets[0] if targets else None)
    if not targets:  # nothing to zoom into: answer from the whole picture
        async for event in _answer(camera, ask, question, options):
            yield event
        return
    boxes = [
        crop_box(options.matrix, camera.size, [(target.row, target.col)], options.crop_radius)
        for target in targets
    ]
    crops = [await camera.view(box, options.crop_mark, options.matrix) for box in boxes]
    mode: Mode = "scaffold" if options.mode in ("direct", "cot") else options.mode
    labels = tuple(target.text for target in targets)
    prompt = build_prompt(question, options.prompt(mode=mode, crops=labels))
    views = [whole[role] for role in prompt.images if role in whole] + crops
    yield PhaseStarted("zoom", prompt, tuple(views), boxes[0])
    reply = await ask(to_messages(prompt, [view.url for view in views]))
    reading = read_text(reply, options.matrix, options.label_style)
    yield PhaseFinished("zoom", reply, reading)
    yield _ended(camera, options, reply, reading, tuple((target.row, target.col) for target in targets))


async def _coarse_to_fine(
    camera: Camera, ask: Ask, question: str, options: LookOptions
) -> AsyncIterator[Event]:
    """Name a dot, lay a finer matrix over its cell, name a dot there, to the last level."""
    path: list[tuple[float, float]] = []
    finding = Finding("", None, ())
    box: Box | None = None
    for level, matrix in enumerate(options.levels):
        view = await camera.view(box, "rescaffold", matrix)
        prompt = _locate_prompt(question, options, matrix, refine=True)
        yield PhaseStarted("locate" if level == 0 else "refine", prompt, (view,), box)
        reply = await ask(to_messages(prompt, [view.url]))
        reading = read_text(reply, matrix, options.label_style)
        targets = choose_targets(reading, 1)
        phase: PhaseName = "locate" if level == 0 else "refine"
        yield PhaseFinished(phase, reply, reading, targets[0] if targets else None)
        if not targets:
            finding = replace(finding, reply=reply, answer=reading.answer)
            break
        row, col = targets[0].row, targets[0].col
        path.append((row, col))
        point = view.transform.apply(*Grid(matrix, view.size).at(row, col))
        box = _cell_in_original(camera, view, matrix, row, col)
        finding = Finding(reply, reading.answer, tuple(path), point, box, view.transform)
    yield finding


def _cell_in_original(camera: Camera, view: View, matrix: Matrix, row: float, col: float) -> Box:
    """The cell of a dot on a view, in upright pixels, rounded outwards."""
    dot = (min(max(round(row), 1), matrix.rows), min(max(round(col), 1), matrix.cols))
    cell = cell_box(matrix, view.size, *dot)
    left, top = view.transform.apply(cell.left - 0.5, cell.top - 0.5)
    right, bottom = view.transform.apply(cell.right - 0.5, cell.bottom - 0.5)
    outer = Box(int(left + 0.5), int(top + 0.5), int(right + 1.5), int(bottom + 1.5))
    return outer.clamped(camera.size)
