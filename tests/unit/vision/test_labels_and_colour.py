"""Label texts, ink and contrast."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.vision.scaffold.colour import (
    blend,
    contrast,
    contrast_at_quantile,
    luminance_of,
    luminance_under,
    paper_ink,
    parse_colour,
    relative_luminance,
    to_hex,
)
from services.vision.scaffold.geometry import Matrix
from services.vision.scaffold.labels import LabelStyle, label_form, label_text, matrix_labels


@pytest.mark.parametrize(
    ("style", "t", "expected"),
    [
        ("(r,c)", None, "(2,3)"),
        ("(r,c)", 10, "(10,2,3)"),
        ("r,c", None, "2,3"),
        ("r,c", 4, "4,2,3"),
        ("A1", None, "B3"),
        ("A1", 2, "2:B3"),
        ("number", None, "9"),
        ("number", 2, "2:9"),
        ("normalised", None, "(286,429)"),
        ("normalised", 1, "(1,286,429)"),
    ],
)
def test_label_texts(style: LabelStyle, t: int | None, expected: str) -> None:
    assert label_text(style, Matrix(6, 6), 2, 3, t) == expected


def test_labels_run_row_by_row_first_number_downwards() -> None:
    assert matrix_labels("(r,c)", Matrix(2, 3)) == ["(1,1)", "(1,2)", "(1,3)", "(2,1)", "(2,2)", "(2,3)"]


def test_shuffled_labels_are_a_seeded_permutation() -> None:
    plain = matrix_labels("(r,c)", Matrix(6, 6))
    shuffled = matrix_labels("(r,c)", Matrix(6, 6), shuffle=True, seed=3)
    assert shuffled != plain
    assert sorted(shuffled) == sorted(plain)
    assert shuffled == matrix_labels("(r,c)", Matrix(6, 6), shuffle=True, seed=3)


def test_label_form_of_sequences_names_t() -> None:
    assert label_form("(r,c)", sequence=True) == "(t,x,y)"
    assert label_form("(r,c)", sequence=False) == "(x,y)"


@pytest.mark.parametrize(
    ("pixel", "ink"),
    [((127, 127, 128), (255, 255, 255)), ((128, 127, 128), (0, 0, 0)), ((0, 255, 0), (255, 255, 255))],
)
def test_paper_ink_sums_channels(pixel: tuple[int, int, int], ink: tuple[int, int, int]) -> None:
    """382 is dark, 383 is light; pure green counts as dark although it is bright."""
    assert paper_ink(pixel) == ink


def test_luminance_and_contrast_match_the_published_examples() -> None:
    """WCAG: black on white 21:1, #777777 on white 4.48:1, #767676 on white 4.54:1."""
    white = luminance_of((255, 255, 255))
    assert contrast(0.0, white) == pytest.approx(21, abs=1e-5)
    assert contrast(luminance_of((0x77,) * 3), white) == pytest.approx(4.48, abs=0.005)
    assert contrast(luminance_of((0x76,) * 3), white) == pytest.approx(4.54, abs=0.005)
    pixels = np.array([[[0, 255, 0], [255, 0, 0]]], dtype=np.uint8)
    np.testing.assert_allclose(relative_luminance(pixels), [[0.7152, 0.2126]], atol=1e-6)


def test_contrast_at_quantile_ignores_the_worst_fifth() -> None:
    background = np.array([[0.0] * 2 + [1.0] * 9], dtype=np.float32)
    black = np.array([0.0], dtype=np.float32)
    assert contrast_at_quantile(black, background)[0] == pytest.approx(21)
    assert contrast_at_quantile(black, background, 0.1)[0] == pytest.approx(1)


def test_luminance_behind_plates_is_that_of_the_blended_pixels() -> None:
    samples = np.random.default_rng(1).integers(0, 256, (4, 9, 3), dtype=np.uint8)
    plates = [None, ((0, 0, 0), 160), ((255, 255, 255), 160), ((220, 20, 20), 200)]
    found = luminance_under(samples, plates)
    for label, plate in enumerate(plates):
        seen = samples[label] if plate is None else blend(samples[label], *plate)
        np.testing.assert_allclose(found[label], relative_luminance(seen), atol=1e-6)


@given(st.integers(0, 255), st.integers(0, 255))
def test_plate_of_the_opposite_colour_always_reaches_four_and_a_half(level: int, ink: int) -> None:
    """The reason for alpha 160: whatever lies under it, black or white text stays readable."""
    colour = (255,) * 3 if ink > 127 else (0,) * 3
    plate = (0,) * 3 if ink > 127 else (255,) * 3
    ground = blend((level,) * 3, plate, 160)
    below = float(relative_luminance(ground[None, :])[0])
    assert contrast(luminance_of(colour), below) >= 4.5


@pytest.mark.parametrize("text", ["#00ff7f", "yellow"])
def test_colours_are_read(text: str) -> None:
    colour = parse_colour(text)
    assert parse_colour(to_hex(colour)) == colour


@pytest.mark.parametrize("text", ["#fff", "blurple", "#gggggg", "", "#00ff7f "])
def test_unknown_colours_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a colour"):
        parse_colour(text)
