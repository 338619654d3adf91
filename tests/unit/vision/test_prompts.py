"""The prompt templates carry what the method needs, in every mode and locale."""

from __future__ import annotations

import dataclasses
import string

import pytest

from services.vision.scaffold.geometry import Matrix
from services.vision.scaffold.labels import LABEL_STYLES, LabelStyle
from services.vision.scaffold.prompts import MODES, Mode, PromptOptions, build_prompt, to_messages
from services.vision.scaffold.templates import ENGLISH, TEMPLATE_VERSION, TEMPLATES

IMAGES = {
    "direct": ("original",),
    "cot": ("original",),
    "scaffold": ("original", "overlay"),
    "scaffold_cot": ("original", "overlay"),
    "scaffold_single": ("overlay",),
    "sequence": ("overlay",),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("locale", list(TEMPLATES))
def test_every_mode_names_its_images_and_keeps_the_question(mode: Mode, locale: str) -> None:
    prompt = build_prompt("Where is {the} cup?", PromptOptions(mode=mode, locale=locale))
    assert prompt.images == IMAGES[mode]
    assert prompt.user.startswith("Where is {the} cup?")
    assert "[[" in prompt.system
    assert prompt.template_version == TEMPLATE_VERSION


def test_guidelines_carry_matrix_form_axes_search_and_answer() -> None:
    prompt = build_prompt("?", PromptOptions(matrix=Matrix(8, 10), answer_format="Say yes or no."))
    for part in (
        "8 rows",
        "10 columns",
        "(x,y)",
        "nearest",
        "top to bottom",
        "left to right",
        "region by region",
    ):
        assert part in prompt.system
    assert prompt.system.endswith("Say yes or no.")
    assert "two images of the same scene" in prompt.system


def test_direct_and_cot_say_nothing_of_dots() -> None:
    for mode in ("direct", "cot"):
        assert "dot" not in build_prompt("?", PromptOptions(mode=mode)).system
    assert "step by step" in build_prompt("?", PromptOptions(mode="cot")).user
    assert "step by step" in build_prompt("?", PromptOptions(mode="scaffold_cot")).user
    assert "step by step" not in build_prompt("?", PromptOptions(mode="scaffold")).user


def test_sequences_explain_t() -> None:
    prompt = build_prompt("?", PromptOptions(mode="sequence", images=3))
    assert prompt.images == ("overlay",) * 3
    assert "(t,x,y)" in prompt.system
    assert "from 1 to 3" in prompt.system


def test_no_guidelines_is_an_ablation() -> None:
    prompt = build_prompt("?", PromptOptions(guidelines=False))
    assert "nearest" not in prompt.system
    assert "two images" in prompt.system


@pytest.mark.parametrize("style", LABEL_STYLES)
def test_every_label_style_explains_its_order(style: LabelStyle) -> None:
    systems = {s: build_prompt("?", PromptOptions(label_style=s)).system for s in LABEL_STYLES}
    assert "left" in systems[style]
    assert len({systems["A1"], systems["number"], systems["normalised"], systems["(r,c)"]}) == 4


@pytest.mark.parametrize("locale", list(TEMPLATES))
def test_all_wordings_use_the_same_placeholders(locale: str) -> None:
    def placeholders(text: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    for part in dataclasses.fields(ENGLISH):
        ours, english = getattr(TEMPLATES[locale], part.name), getattr(ENGLISH, part.name)
        assert placeholders(ours) == placeholders(english), part.name
        assert ours.strip()


def test_messages_put_images_before_the_question() -> None:
    prompt = build_prompt("Where?", PromptOptions())
    system, user = to_messages(prompt, ["https://a/1.png", "data:image/png;base64,AA=="])
    assert system == {"role": "system", "content": prompt.system}
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["image_url", "image_url", "text"]
    assert user["content"][0]["image_url"] == {"url": "https://a/1.png", "detail": "high"}
    with pytest.raises(ValueError, match="takes 2 images, 1"):
        to_messages(prompt, ["https://a/1.png"])


def test_unknown_locale_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'xx': use en, de"):
        build_prompt("?", PromptOptions(locale="xx"))
