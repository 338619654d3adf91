"""From validated options to jobs and prompts."""

from __future__ import annotations

from typing import Any

from services.vision.imaging import DecodeOptions, EncodeOptions, Limits, OutputFormat, Resize
from services.vision.scaffold import Matrix, OverlayOptions, PromptOptions, build_prompt
from services.vision.scaffold.prompts import Mode
from services.vision.schemas import (
    CropOptions,
    DrawOptions,
    MatrixOptions,
    OutputOptions,
    PromptAnswer,
    PromptPart,
    ResizeOptions,
    ScaffoldOptions,
)
from services.vision.work import LegibilityJob, OverlayJob, ViewJob

LEGIBLE_QUALITY = 85
PAPER_QUALITY = 75
"""The default of the library the reference saves with."""


def matrix_of(options: MatrixOptions) -> Matrix:
    return Matrix(options.rows, options.cols)


def overlay_options(options: DrawOptions) -> OverlayOptions:
    """What to draw."""
    return OverlayOptions(
        profile=options.profile,
        matrix=matrix_of(options),
        image_index=options.image_index,
        label_style=options.label_style,
        font_px=options.font_px,
        radius_px=options.radius_px,
        color=options.color,
        plate=options.plate,
        placement=options.placement,
        opacity=options.opacity,
        grid=options.grid,
        jitter=options.jitter,
        seed=options.seed,
        no_labels=options.no_labels,
        no_dots=options.no_dots,
        shuffle_labels=options.shuffle_labels,
        auto_matrix=options.auto_matrix,
        target_model_side=options.resize.target_model_side if options.resize else None,
    )


def resize_options(options: DrawOptions) -> Resize:
    """The working size; the paper's profile never scales unless it is asked to."""
    if options.resize is None:
        return Resize() if options.profile == "paper" else Resize(max_side=ResizeOptions().max_side)
    return Resize(options.resize.max_side, options.resize.min_side)


def decode_options(options: DrawOptions, *, one_frame: bool = False) -> DecodeOptions:
    """How to read the file; with `one_frame` all frames of an animation become the first."""
    return DecodeOptions(
        background=options.background,
        frame="first" if one_frame and options.frame == "all" else options.frame,
        allow_truncated=options.allow_truncated,
        resize=resize_options(options),
    )


def encode_options(output: OutputOptions, options: DrawOptions, form: OutputFormat | None) -> EncodeOptions:
    """How to write the answer; `form` from the Accept header goes before the options."""
    default = PAPER_QUALITY if options.profile == "paper" else LEGIBLE_QUALITY
    return EncodeOptions(form or output.format, output.quality or default, output.png_level)


def overlay_job(
    options: ScaffoldOptions, limits: Limits, form: OutputFormat | None, *, sequence: bool = False
) -> OverlayJob:
    """The job of /scaffold and /sequence."""
    return OverlayJob(
        limits=limits,
        decode=decode_options(options),
        overlay=overlay_options(options),
        encode=encode_options(options.output, options, form),
        sequence=sequence,
        include_original=options.include_original,
    )


def crop_job(options: CropOptions, limits: Limits, form: OutputFormat | None) -> ViewJob:
    """The job of /crop."""
    places = options.points or ([options.center] if options.center else [])
    matrix = options.crop_matrix or options
    return ViewJob(
        limits=limits,
        decode=decode_options(options, one_frame=True),
        overlay=overlay_options(options),
        encode=encode_options(options.output, options, form),
        mark=options.mark,
        dots=tuple((place.row, place.col) for place in places),
        radius=options.radius,
        crop_matrix=matrix_of(matrix),
        resize=resize_options(options),
    )


def legibility_job(options: DrawOptions, limits: Limits) -> LegibilityJob:
    """The job of /legibility."""
    return LegibilityJob(limits, decode_options(options, one_frame=True), overlay_options(options))


def prompt_answer(
    part: PromptPart, options: DrawOptions, matrix: dict[str, Any] | None = None, images: int | None = None
) -> PromptAnswer:
    """The prompt that goes with an overlay; `matrix` is the one that was really drawn, `images`
    the length of a sequence."""
    mode: Mode = "sequence" if images is not None else part.mode
    prompt = build_prompt(
        part.question,
        PromptOptions(
            mode=mode,
            matrix=Matrix(**matrix) if matrix else matrix_of(options),
            label_style=options.label_style,
            images=images or 1,
            answer_format=part.answer_format,
            locale=part.locale,
            guidelines=part.guidelines,
        ),
    )
    return PromptAnswer(
        system=prompt.system,
        user=prompt.user,
        images=list(prompt.images),
        template_version=prompt.template_version,
    )
