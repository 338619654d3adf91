"""Options of the image calls, and the events of a look."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Required, TypedDict

from httpx2 import ServerSentEvent
from pydantic import TypeAdapter

from latticework._calls import Call
from latticework._events import Decoded, Decoder, parse
from latticework._files import FileSource, Upload
from latticework.models import AskAnswer

LabelStyle = Literal["(r,c)", "r,c", "A1", "number", "normalised"]
Mode = Literal["direct", "cot", "scaffold", "scaffold_single", "scaffold_cot", "sequence"]
Format = Literal["jpeg", "png", "webp"]
Mark = Literal["none", "overlay", "rescaffold"]
Place = tuple[float, float]
"""(row, column) in the matrix, counted from 1."""


class Matrix(TypedDict, total=False):
    """The dots: `rows` x `cols`, at most 400."""

    rows: int
    cols: int


class Resize(TypedDict, total=False):
    """The working size in pixels: `max_side` shrinks, `min_side` enlarges the shorter side,
    `target_model_side` sizes labels for what the model will see."""

    max_side: int | None
    min_side: int | None
    target_model_side: int | None


class Output(TypedDict, total=False):
    """How the image is written; `png_level` 0 is the fast writer."""

    format: Format
    quality: int | None
    png_level: int


class Prompt(TypedDict, total=False):
    """The prompt that goes with the overlay."""

    question: Required[str]
    mode: Mode
    answer_format: str | None
    locale: str
    guidelines: bool


class DrawOptions(Matrix, total=False):
    """What is drawn."""

    profile: Literal["legible", "paper"]
    image_index: int | None
    label_style: LabelStyle
    font_px: int | None
    radius_px: int | None
    color: str
    plate: Literal["auto", "off"] | int
    placement: Literal["auto", "fixed"]
    opacity: float
    grid: bool
    jitter: float
    seed: int
    no_labels: bool
    no_dots: bool
    shuffle_labels: bool
    auto_matrix: bool
    background: str
    frame: Literal["first"] | int
    allow_truncated: bool
    resize: Resize | None


class ScaffoldOptions(DrawOptions, total=False):
    """Options of `scaffold` and `sequence`."""

    output: Output
    include_original: bool
    prompt: Prompt | None


class CropOptions(DrawOptions, total=False):
    """Options of `crop`, beside the place."""

    radius: float
    mark: Mark
    crop_matrix: Matrix | None
    output: Output


class AskOptions(Matrix, total=False):
    """Options of `ask`, beside the question."""

    mode: Mode
    strategy: Literal["answer", "active_perception", "coarse_to_fine"]
    label_style: LabelStyle
    answer_format: str | None
    locale: str
    guidelines: bool
    max_crops: int
    crop_radius: float
    crop_mark: Literal["overlay", "none"]
    levels: Sequence[Matrix] | None
    background: str
    allow_truncated: bool
    model: str | None
    model_side: int | None
    max_tokens: int
    temperature: float
    max_calls: int
    max_completion_tokens: int | None


class PromptOptions(Matrix, total=False):
    """Options of `prompt`, beside the question."""

    mode: Mode
    label_style: LabelStyle
    images: int
    answer_format: str | None
    locale: str
    guidelines: bool
    image_urls: Sequence[str] | None


class ResolveOptions(Matrix, total=False):
    """Options of `resolve`, beside text and points."""

    label_style: LabelStyle
    images: int | None
    image_index: int | None
    size: tuple[int, int] | None
    transform: Sequence[Sequence[float]] | None


@dataclass(frozen=True, slots=True)
class Rendering:
    """The bytes of a drawn image and the facts about it."""

    data: bytes
    media_type: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LookEvent:
    """One event of a look: a `phase` that started or finished, or the `answer`."""

    type: str
    data: Mapping[str, Any]
    answer: AskAnswer | None = None


def image_call(
    path: str, images: Sequence[FileSource], options: Mapping[str, Any], *, replayable: bool | None = True
) -> Call:
    """An image call: the files as they are, the options as JSON beside them."""
    uploads = [("image", Upload(image)) for image in images]
    form = {"options": json.dumps(dict(options))}
    return Call("POST", path, uploads=uploads, form=form, replayable=replayable)


def place(position: Place) -> dict[str, float]:
    """A place as the API takes it."""
    return {"row": position[0], "col": position[1]}


def look_events() -> Decoder[LookEvent]:
    """Decoder of a look's events; the answer is the last one."""
    anything = TypeAdapter(dict[str, Any])
    answers = TypeAdapter(AskAnswer)
    phases: list[Mapping[str, Any]] = []

    def decode(event: ServerSentEvent) -> Decoded[LookEvent]:
        data = parse(anything, event.data)
        if event.event != "answer":
            phases.append(data)
            return Decoded(LookEvent(event.event, data))
        answer = parse(answers, json.dumps({**data, "phases": phases}))
        return Decoded(LookEvent("answer", data, answer), last=True)

    return decode
