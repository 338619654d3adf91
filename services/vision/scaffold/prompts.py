"""The words that go with an overlay: versioned templates, rendered into chat messages.

Written for this project after the description of Scaffold's prompts (section "prompts" and the
modes direct, cot, scaffold, scaffold_single, sequence); the version changes with every word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from services.vision.scaffold.geometry import Matrix
from services.vision.scaffold.labels import LabelStyle, label_form
from services.vision.scaffold.templates import TEMPLATE_VERSION, TEMPLATES, Wording

Mode = Literal["direct", "cot", "scaffold", "scaffold_cot", "scaffold_single", "sequence"]
MODES: tuple[Mode, ...] = get_args(Mode)
ImageRole = Literal["original", "overlay", "crop"]
LOCALES: tuple[str, ...] = tuple(TEMPLATES)


@dataclass(frozen=True)
class PromptOptions:
    """What a prompt depends on. `answer_format` is one sentence on the form of the answer;
    `images` the number of images in `sequence` mode; `crops` the labels of dots whose enlarged
    surroundings follow the other images; `guidelines` False is an ablation."""

    mode: Mode = "scaffold"
    matrix: Matrix = field(default_factory=Matrix)
    label_style: LabelStyle = "(r,c)"
    images: int = 1
    answer_format: str | None = None
    locale: str = "en"
    guidelines: bool = True
    crops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """System and user text, the images that go between them in order, the template's version."""

    system: str
    user: str
    images: tuple[ImageRole, ...]
    template_version: str


def _images(options: PromptOptions) -> tuple[ImageRole, ...]:
    crop: ImageRole = "crop"
    return _whole_images(options) + (crop,) * len(options.crops)


def _whole_images(options: PromptOptions) -> tuple[ImageRole, ...]:
    if options.mode in ("direct", "cot"):
        return ("original",)
    if options.mode == "scaffold_single":
        return ("overlay",)
    if options.mode == "sequence":
        overlay: ImageRole = "overlay"
        return (overlay,) * options.images
    return ("original", "overlay")


def _order_rule(wording: Wording, style: LabelStyle) -> str:
    rules = {
        "A1": wording.order_letters,
        "number": wording.order_number,
        "normalised": wording.order_permille,
    }
    return rules.get(style, wording.order)


def _guidelines(wording: Wording, options: PromptOptions) -> list[str]:
    sequence = options.mode == "sequence"
    form = label_form(options.label_style, sequence)
    rules = [
        wording.matrix.format(rows=options.matrix.rows, cols=options.matrix.cols, form=form),
        wording.naming.format(form=form),
        _order_rule(wording, options.label_style),
        wording.search,
    ]
    if sequence:
        rules.append(wording.sequence.format(images=options.images))
    return [f"{number}. {rule}" for number, rule in enumerate(rules, start=1)]


def build_prompt(question: str, options: PromptOptions) -> Prompt:
    """Render the prompt of one mode.

    Raises ValueError for an unknown locale, and for a `sequence` of fewer than one image.
    """
    if options.locale not in TEMPLATES:
        raise ValueError(f"no prompt template for locale {options.locale!r}: use {', '.join(LOCALES)}")
    if options.images < 1:
        raise ValueError("a sequence has at least one image")
    wording = TEMPLATES[options.locale]
    lines: list[str] = []
    if options.mode not in ("direct", "cot"):
        preamble = {
            "scaffold_single": wording.one_image,
            "sequence": wording.many_images,
        }.get(options.mode, wording.two_images)
        lines.append(preamble.format(images=options.images))
        if options.guidelines:
            lines.extend(_guidelines(wording, options))
    lines.extend(wording.zoomed.format(label=label) for label in options.crops)
    lines.append(options.answer_format or wording.answer_format)
    user = question.strip()
    if options.mode in ("cot", "scaffold_cot"):
        user = f"{user}\n{wording.step_by_step}"
    return Prompt("\n".join(lines), user, _images(options), TEMPLATE_VERSION)


def to_messages(prompt: Prompt, image_urls: Sequence[str], detail: str = "high") -> list[dict[str, Any]]:
    """Chat-completions messages: the system text, then one user turn with the images in order and
    the question. Raises ValueError where the number of images differs."""
    if len(image_urls) != len(prompt.images):
        raise ValueError(f"the prompt takes {len(prompt.images)} images, {len(image_urls)} were given")
    content: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url, "detail": detail}} for url in image_urls
    ]
    content.append({"type": "text", "text": prompt.user})
    return [{"role": "system", "content": prompt.system}, {"role": "user", "content": content}]
