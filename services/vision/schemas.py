"""What crosses the wire: options of the image routes."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from services.vision.imaging import OutputFormat
from services.vision.scaffold import LOCALES, LabelStyle
from services.vision.scaffold.colour import parse_colour
from services.vision.scaffold.options import (
    MAXIMUM_DOTS,
    MAXIMUM_SIDE_OF_MATRIX,
    Placement,
    Profile,
)
from services.vision.scaffold.perception import Mark, Strategy
from services.vision.scaffold.prompts import ImageRole, Mode

DEFAULT_MAX_SIDE = 2048
Side = Annotated[int, Field(ge=1, le=MAXIMUM_SIDE_OF_MATRIX)]
Affine2x3 = tuple[tuple[float, float, float], tuple[float, float, float]]
Size = tuple[int, int]
FloatBox = tuple[float, float, float, float]


def _colour(value: str) -> str:
    if value != "auto":
        parse_colour(value)
    return value


def _background(value: str) -> str:
    if value != "checker":
        parse_colour(value)
    return value


def _locale(value: str) -> str:
    if value not in LOCALES:
        raise ValueError(f"there are prompts in {', '.join(LOCALES)}")
    return value


Colour = Annotated[str, AfterValidator(_colour)]
Background = Annotated[str, AfterValidator(_background)]
Locale = Annotated[str, AfterValidator(_locale)]


class Strict(BaseModel):
    """Unknown fields are refused, and so are infinities."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class MatrixOptions(Strict):
    """An h x w matrix of at most 400 dots."""

    rows: Side = 6
    cols: Side = 6

    @model_validator(mode="after")
    def bounded(self) -> Self:
        if self.rows * self.cols > MAXIMUM_DOTS:
            raise ValueError(f"rows x cols may be at most {MAXIMUM_DOTS}, here {self.rows * self.cols}")
        return self


class ResizeOptions(Strict):
    """The working size. `max_side` shrinks (2048 unless given; null leaves it alone), `min_side`
    enlarges the shorter side, `target_model_side` sizes labels for what the model will see."""

    max_side: int | None = Field(DEFAULT_MAX_SIDE, ge=16, le=16_384)
    min_side: int | None = Field(None, ge=1, le=4096)
    target_model_side: int | None = Field(None, ge=64, le=16_384)


class OutputOptions(Strict):
    """How the image is written. `quality` (85, in the paper profile 75) is for JPEG and WebP;
    `png_level` 0 is the fast writer, 1-9 are zlib's levels."""

    format: OutputFormat = "jpeg"
    quality: int | None = Field(None, ge=1, le=100)
    png_level: int = Field(0, ge=0, le=9)


class PromptPart(Strict):
    """Ask for the prompt that goes with the overlay."""

    question: str = Field(max_length=20_000)
    mode: Mode = "scaffold"
    answer_format: str | None = Field(None, max_length=2_000)
    locale: Locale = "en"
    guidelines: bool = True


class DrawOptions(MatrixOptions):
    """What is drawn, common to all routes that draw."""

    profile: Profile = "legible"
    image_index: int | None = Field(None, ge=1, le=999)
    label_style: LabelStyle = "(r,c)"
    font_px: int | None = Field(None, ge=4, le=512)
    radius_px: int | None = Field(None, ge=0, le=256)
    color: Colour = Field("auto", description="auto, a name (black, white, yellow, magenta ...) or #rrggbb")
    plate: Literal["auto", "off"] | Annotated[int, Field(ge=1, le=255)] = Field(
        "auto", description="ground under labels: auto, off, or its alpha 1-255"
    )
    placement: Placement = "auto"
    opacity: float = Field(1.0, gt=0, le=1)
    grid: bool = False
    jitter: float = Field(0.0, ge=0, le=1, description="moves dots by up to this share of a cell")
    seed: int = Field(0, ge=0, lt=2**63)
    no_labels: bool = False
    no_dots: bool = False
    shuffle_labels: bool = False
    auto_matrix: bool = Field(False, description="let the matrix shrink until its labels fit")
    background: Background = Field("white", description="white, black, checker, a name or #rrggbb")
    frame: Literal["first", "all"] | Annotated[int, Field(ge=0, le=100_000)] = "first"
    allow_truncated: bool = False
    resize: ResizeOptions | None = None


class ScaffoldOptions(DrawOptions):
    """Options of /v1/vision/scaffold and /v1/vision/sequence."""

    output: OutputOptions = OutputOptions()
    include_original: bool = False
    prompt: PromptPart | None = None


class DotPlace(Strict):
    """A place in the matrix."""

    row: float = Field(ge=1, le=MAXIMUM_SIDE_OF_MATRIX)
    col: float = Field(ge=1, le=MAXIMUM_SIDE_OF_MATRIX)


class CropOptions(DrawOptions):
    """Options of /v1/vision/crop. The crop is cut from the full resolution; `resize` applies to it.
    `crop_matrix` is what `mark: rescaffold` draws, by default the same matrix."""

    center: DotPlace | None = None
    points: list[DotPlace] = Field(default_factory=list, max_length=MAXIMUM_DOTS)
    radius: float = Field(2.0, gt=0, le=30)
    mark: Mark = "overlay"
    crop_matrix: MatrixOptions | None = None
    output: OutputOptions = OutputOptions()

    @model_validator(mode="after")
    def one_place(self) -> Self:
        if (self.center is None) == (not self.points):
            raise ValueError("give either center or points")
        places = [self.center] if self.center else self.points
        for place in places:
            if place.row > self.rows or place.col > self.cols:
                raise ValueError(
                    f"({place.row:g},{place.col:g}) is outside of the {self.rows} x {self.cols} matrix"
                )
        return self


class AskOptions(Strict):
    """Options of /v1/vision/ask. `strategy` answer is one call; active_perception locates, crops and
    asks again; coarse_to_fine points at the answer in `levels` steps."""

    question: str = Field(min_length=1, max_length=20_000)
    mode: Mode = "scaffold"
    strategy: Strategy = "active_perception"
    rows: Side = 6
    cols: Side = 6
    label_style: LabelStyle = "(r,c)"
    answer_format: str | None = Field(None, max_length=2_000)
    locale: Locale = "en"
    guidelines: bool = True
    max_crops: int = Field(1, ge=1, le=4)
    crop_radius: float = Field(2.0, gt=0, le=30)
    crop_mark: Literal["none", "overlay"] = Field(
        "none", description="overlay keeps the labels in crops, where they can hide what is looked for"
    )
    levels: list[MatrixOptions] | None = Field(None, min_length=1, max_length=4)
    background: Background = "white"
    allow_truncated: bool = False
    model: str | None = Field(None, max_length=200, description="instead of the configured model")
    model_side: int | None = Field(None, ge=64, le=16_384)
    max_tokens: int = Field(4096, ge=1, le=32_768, description="of one reply")
    temperature: float = Field(0.0, ge=0, le=2)
    max_calls: int = Field(6, ge=1, le=16, description="budget: calls of the model")
    max_completion_tokens: int | None = Field(None, ge=1, description="budget: tokens of all replies")
    stream: bool = False

    @model_validator(mode="after")
    def coherent(self) -> Self:
        MatrixOptions(rows=self.rows, cols=self.cols)
        if self.mode == "sequence":
            raise ValueError("sequence is not a mode of ask: it takes one image")
        return self


class ImageFile(Strict):
    """One image in JSON."""

    image_b64: str = Field(description="base64 of the file")


class ScaffoldBody(ImageFile):
    options: ScaffoldOptions = ScaffoldOptions()


class CropBody(ImageFile):
    options: CropOptions


class LegibilityBody(ImageFile):
    options: DrawOptions = DrawOptions()


class AskBody(ImageFile):
    options: AskOptions


class SequenceBody(Strict):
    images: list[ImageFile] = Field(min_length=1)
    options: ScaffoldOptions = ScaffoldOptions()


class Dot(BaseModel):
    """A drawn dot; x, y on the answered image, *_original on the stored file."""

    label: str
    t: int | None
    row: int
    col: int
    x: float
    y: float
    x_original: float
    y_original: float
    color: str
    label_box: tuple[int, int, int, int]
    contrast: float
    overlaps: int
    plate: bool


class LegibilityFacts(BaseModel):
    min_contrast: float
    mean_contrast: float
    overlaps: int
    out_of_canvas: int


class PromptAnswer(BaseModel):
    """A rendered prompt. `images` says which image belongs where, in order."""

    system: str
    user: str
    images: list[ImageRole]
    template_version: str


class PictureFacts(BaseModel):
    """Sizes and the way back: `transform` maps pixels of the answered image to the stored file."""

    original_size: Size
    upright_size: Size
    working_size: Size
    scale_x: float
    scale_y: float
    orientation: int
    transform: Affine2x3
    frame: int
    frames: int
    warnings: list[str]


class ScaffoldAnswer(PictureFacts):
    image_b64: str
    original_b64: str | None = None
    media_type: str
    t: int | None
    matrix: MatrixOptions
    font_px: int
    radius_px: int
    dots: list[Dot]
    legibility: LegibilityFacts
    timing_ms: dict[str, float]
    prompt: PromptAnswer | None = None


class SequenceAnswer(BaseModel):
    images: list[ScaffoldAnswer]
    prompt: PromptAnswer | None = None


class CropAnswer(PictureFacts):
    """`transform` maps crop pixels to the stored file, `box_working` is on the upright original."""

    image_b64: str
    media_type: str
    box_working: tuple[int, int, int, int]
    box_original: FloatBox
    matrix: MatrixOptions | None = None
    font_px: int | None = None
    radius_px: int | None = None
    dots: list[Dot] = []
    legibility: LegibilityFacts | None = None


class LabelRead(BaseModel):
    label: str
    read: str | None
    score: float | None
    correct: bool


class LegibilityAnswer(PictureFacts):
    matrix: MatrixOptions
    font_px: int
    legibility: LegibilityFacts
    labels: int
    recall: float
    reads: list[LabelRead]
    timing_ms: dict[str, float]


class Capabilities(BaseModel):
    """What this service can do, and how much of it."""

    formats: list[str]
    output_formats: list[str]
    profiles: list[str]
    label_styles: list[str]
    modes: list[str]
    strategies: list[str]
    locales: list[str]
    template_version: str
    limits: dict[str, int]
    ask: bool
    model: str | None
    ocr: bool
    versions: dict[str, str]


JsonObject = dict[str, Any]
