"""Routes without an image: prompt, resolve, capabilities."""

from __future__ import annotations

from typing import Annotated, Any, Self

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, model_validator

from services.vision.answers import json_answer, json_body, versions
from services.vision.engine import Engine
from services.vision.imaging import MEDIA_TYPES, READABLE
from services.vision.intake import read_json_body
from services.vision.problems import InvalidOptions
from services.vision.routes.common import PREFIX, WORD_PROBLEMS, Caller, settings_of
from services.vision.scaffold import (
    LABEL_STYLES,
    LOCALES,
    MODES,
    TEMPLATE_VERSION,
    Affine,
    Grid,
    LabelStyle,
    PromptOptions,
    build_prompt,
    name_pixel,
    read_text,
    to_messages,
)
from services.vision.scaffold.mentions import MentionRange, Reading
from services.vision.scaffold.prompts import Mode
from services.vision.scaffold.resolve import original_box
from services.vision.schemas import (
    Affine2x3,
    Capabilities,
    Locale,
    MatrixOptions,
    PromptAnswer,
    Strict,
)
from services.vision.wiring import matrix_of

router = APIRouter(prefix=PREFIX, tags=["vision"])
MAXIMUM_TEXT = 100_000
Pixels = Annotated[int, Field(ge=1, le=1_000_000)]


class PromptBody(MatrixOptions):
    """A prompt without an image. `image_urls` fills the places of the images, in order; without them
    the messages carry `image:original`, `image:overlay` for the caller to replace."""

    question: str = Field(max_length=20_000)
    mode: Mode = "scaffold"
    label_style: LabelStyle = "(r,c)"
    images: int = Field(1, ge=1, le=64, description="length of a sequence")
    answer_format: str | None = Field(None, max_length=2_000)
    locale: Locale = "en"
    guidelines: bool = True
    image_urls: list[Annotated[str, Field(max_length=40_000_000)]] | None = Field(None, max_length=64)


class PromptWithMessages(PromptAnswer):
    """The prompt, also as a chat-completions message list."""

    messages: list[dict[str, Any]]


@router.post(
    "/prompt",
    summary="The words that go with an overlay",
    response_model=PromptWithMessages,
    responses=WORD_PROBLEMS,
    openapi_extra=json_body(PromptBody),
)
async def prompt(request: Request, caller: Caller) -> PromptWithMessages:
    """System and user text for a mode, ready for any OpenAI-compatible server."""
    body = await read_json_body(request, PromptBody)
    rendered = build_prompt(
        body.question,
        PromptOptions(
            mode=body.mode,
            matrix=matrix_of(body),
            label_style=body.label_style,
            images=body.images,
            answer_format=body.answer_format,
            locale=body.locale,
            guidelines=body.guidelines,
        ),
    )
    urls = body.image_urls or [f"image:{role}" for role in rendered.images]
    try:
        messages = to_messages(rendered, urls)
    except ValueError as error:
        raise InvalidOptions(f"image_urls: {error}.") from None
    return PromptWithMessages(
        system=rendered.system,
        user=rendered.user,
        images=list(rendered.images),
        template_version=rendered.template_version,
        messages=messages,
    )


class PixelBody(Strict):
    """A pixel to name, on the labelled image or with `original` on the stored one."""

    x: float
    y: float
    original: bool = False


class ResolveBody(MatrixOptions):
    """Words to pixels (`text`), pixels to words (`points`), or both.

    `size` (width, height) is the labelled image's, `transform` the affine that came with it.
    """

    text: str | None = Field(None, max_length=MAXIMUM_TEXT)
    points: list[PixelBody] = Field(default_factory=list, max_length=1_000)
    label_style: LabelStyle = "(r,c)"
    images: int | None = Field(None, ge=1, le=999, description="length of the sequence, to check t")
    image_index: int | None = Field(None, ge=1, le=999, description="t of the labels of points")
    size: tuple[Pixels, Pixels] | None = None
    transform: Affine2x3 | None = None

    @model_validator(mode="after")
    def useful(self) -> Self:
        if self.text is None and not self.points:
            raise ValueError("give text, points or both")
        if self.points and self.size is None:
            raise ValueError("points need the size of the labelled image")
        if self.transform is not None:
            if self.size is None:
                raise ValueError("transform needs the size of the labelled image")
            Affine.from_rows(self.transform).inverse()
        return self


class ResolvedMention(BaseModel):
    text: str
    start: int
    end: int
    t: int | None
    row: float
    col: float
    in_range: bool
    swapped_in_range: bool
    x: float | None = None
    y: float | None = None
    x_original: float | None = None
    y_original: float | None = None


class ResolvedRange(BaseModel):
    """`first` and `last` are indices into the mentions; boxes are (left, top, right, bottom)."""

    first: int
    last: int
    rows: tuple[float, float]
    cols: tuple[float, float]
    box: tuple[int, int, int, int] | None = None
    box_original: tuple[float, float, float, float] | None = None


class ResolvedPoint(BaseModel):
    x: float
    y: float
    label: str
    row: int
    col: int
    dot_x: int
    dot_y: int
    distance: float
    cell: tuple[int, int, int, int]


class ResolveAnswer(BaseModel):
    mentions: list[ResolvedMention]
    ranges: list[ResolvedRange]
    answer: str | None
    points: list[ResolvedPoint]


def _mentions(reading: Reading, grid: Grid | None, with_original: bool) -> list[ResolvedMention]:
    resolved: list[ResolvedMention] = []
    for mention in reading.mentions:
        entry = ResolvedMention.model_validate(mention, from_attributes=True)
        place = grid.locate(mention) if grid is not None else None
        if grid is not None and place is not None:
            entry.x, entry.y = place
            if with_original:
                entry.x_original, entry.y_original = grid.transform.apply(*place)
        resolved.append(entry)
    return resolved


def _range(span: MentionRange, grid: Grid | None, with_original: bool) -> ResolvedRange:
    box = grid.range_box(span) if grid is not None else None
    entry = ResolvedRange(
        first=span.first, last=span.last, rows=(span.top, span.bottom), cols=(span.left, span.right)
    )
    if grid is not None and box is not None:
        entry.box = (box.left, box.top, box.right, box.bottom)
        if with_original:
            entry.box_original = original_box(box, grid.transform)
    return entry


def _point(point: PixelBody, grid: Grid, body: ResolveBody) -> ResolvedPoint:
    try:
        named = name_pixel(grid, point.x, point.y, body.label_style, body.image_index, point.original)
    except ValueError as error:
        raise InvalidOptions(f"points: {error}.") from None
    cell = named.cell
    return ResolvedPoint(
        x=named.x,
        y=named.y,
        label=named.label,
        row=named.row,
        col=named.col,
        dot_x=named.dot_x,
        dot_y=named.dot_y,
        distance=named.distance,
        cell=(cell.left, cell.top, cell.right, cell.bottom),
    )


@router.post(
    "/resolve",
    summary="Coordinates in words to pixels, and back",
    response_model=ResolveAnswer,
    responses=WORD_PROBLEMS,
    openapi_extra=json_body(ResolveBody),
)
async def resolve(request: Request, caller: Caller) -> Response:
    """Find `(r,c)`, `(t,r,c)`, ranges and the `[[answer]]` in a model's words; name pixels.

    Places that do not exist are returned with `in_range: false`; `swapped_in_range` tells that they
    would exist with row and column exchanged.
    """
    body = await read_json_body(request, ResolveBody)
    matrix = matrix_of(body)
    transform = Affine.from_rows(body.transform) if body.transform else Affine()
    grid = Grid(matrix, body.size, transform) if body.size else None
    with_original = body.transform is not None
    reading = read_text(body.text or "", matrix, body.label_style, body.images)
    answer = ResolveAnswer(
        mentions=_mentions(reading, grid, with_original),
        ranges=[_range(span, grid, with_original) for span in reading.ranges],
        answer=reading.answer,
        points=[_point(point, grid, body) for point in body.points] if grid else [],
    )
    return await json_answer(answer.model_dump())


@router.get("/capabilities", summary="What this service can do, and its limits")
async def capabilities(request: Request, caller: Caller) -> Capabilities:
    """Formats, styles, modes, limits, and whether a model and OCR are there."""
    settings = settings_of(request)
    return Capabilities(
        formats=list(READABLE),
        output_formats=list(MEDIA_TYPES),
        profiles=["legible", "paper"],
        label_styles=list(LABEL_STYLES),
        modes=list(MODES),
        strategies=["answer", "active_perception", "coarse_to_fine"],
        locales=list(LOCALES),
        template_version=TEMPLATE_VERSION,
        limits={
            "bytes": settings.vision_max_bytes,
            "pixels": settings.vision_max_pixels,
            "side": settings.vision_max_side,
            "images": settings.vision_max_frames,
            "dots": 400,
        },
        ask=settings.vision_model is not None,
        model=settings.vision_model,
        ocr=Engine.has_ocr(),
        versions=versions(),
    )
