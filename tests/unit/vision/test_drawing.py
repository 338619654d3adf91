"""Both profiles on pictures: the paper's bit by bit, the legible one by its promises."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import PIL
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from benchmarks.vision.photos import flat, noise, photo
from benchmarks.vision.reference import draw_reference
from services.vision.scaffold.colour import Pixels
from services.vision.scaffold.drawing import draw_overlay
from services.vision.scaffold.geometry import Matrix, dot_centres
from services.vision.scaffold.labels import LABEL_STYLES, LabelStyle
from services.vision.scaffold.options import ImageTooSmallError, OverlayOptions
from services.vision.scaffold.placement import legible_layout, place_labels

LEGIBLE = OverlayOptions()
PAPER = OverlayOptions(profile="paper")


@pytest.mark.parametrize("size", [(40, 30), (239, 100), (640, 480), (1000, 300), (300, 700)])
@pytest.mark.parametrize(("matrix", "t"), [(Matrix(6, 6), None), (Matrix(8, 10), None), (Matrix(5, 7), 2)])
def test_paper_profile_is_the_reference_pixel_by_pixel(
    size: tuple[int, int], matrix: Matrix, t: int | None
) -> None:
    picture = photo(*size, seed=3)
    drawn = draw_overlay(picture, replace(PAPER, matrix=matrix, image_index=t))
    expected = np.asarray(draw_reference(Image.fromarray(picture), matrix.rows, matrix.cols, t))
    np.testing.assert_array_equal(drawn.pixels, expected)


PAPER_GOLDENS = {
    (320, 240): "56e69abf3360608e",
    (640, 480): "4efb029c47c9684c",
}
LEGIBLE_GOLDENS = {
    (320, 240): "2bf5c67a96fdbef9",
    (640, 480): "e7ca18e3b6ed32e3",
}
GOLDEN_LIBRARIES = ("13.0.0", "2.14.3")


def _ramp(size: tuple[int, int]) -> Pixels:
    """A picture that needs no random numbers and has light, dark and colour."""
    x, y = np.arange(size[0])[None, :], np.arange(size[1])[:, None]
    return np.stack([(x * 3 + y) % 256, (x + y * 2) % 256, (x ^ y) % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize("profile", ["paper", "legible"])
@pytest.mark.parametrize("size", list(PAPER_GOLDENS))
def test_same_bytes_for_fixed_library_versions(profile: str, size: tuple[int, int]) -> None:
    versions = (PIL.__version__, features.version("freetype2"))
    if versions != GOLDEN_LIBRARIES:
        pytest.skip(f"hashes were taken with Pillow, FreeType {GOLDEN_LIBRARIES}, these are {versions}")
    options = PAPER if profile == "paper" else LEGIBLE
    expected = (PAPER_GOLDENS if profile == "paper" else LEGIBLE_GOLDENS)[size]
    drawn = draw_overlay(_ramp(size), options).pixels
    assert hashlib.sha256(drawn.tobytes()).hexdigest()[:16] == expected


def test_paper_profile_leaves_its_input_alone() -> None:
    picture = photo(320, 240)
    before = picture.copy()
    draw_overlay(picture, PAPER)
    np.testing.assert_array_equal(picture, before)


@pytest.mark.parametrize("width", [1, 5, 39])
def test_paper_profile_refuses_what_the_reference_crashes_on(width: int) -> None:
    with pytest.raises(ImageTooSmallError, match="min_side = 40"):
        draw_overlay(flat(width, width, 9), PAPER)


@pytest.mark.parametrize("level", [0, 1, 60, 90, 118, 127, 128, 160, 200, 254, 255])
@pytest.mark.parametrize("side", [240, 640])
def test_contrast_on_flat_grey(level: int, side: int) -> None:
    assert draw_overlay(flat(side, side, level), LEGIBLE).legibility.min_contrast >= 4.5


@pytest.mark.parametrize("seed", range(3))
def test_contrast_on_noise_and_photos(seed: int) -> None:
    for picture in (noise(400, 300, seed), photo(800, 600, seed), photo(300, 900, seed, grain=40)):
        legibility = draw_overlay(picture, LEGIBLE).legibility
        assert legibility.min_contrast >= 4.5
        assert legibility.overlaps == 0
        assert legibility.out_of_canvas == 0


def test_legible_beats_paper_on_contrast() -> None:
    picture = photo(1024, 768, 5)
    paper = draw_overlay(picture, PAPER).legibility
    legible = draw_overlay(picture.copy(), LEGIBLE).legibility
    assert paper.min_contrast < 4.5 <= legible.min_contrast


def _fitting(options: OverlayOptions, size: tuple[int, int]) -> OverlayOptions | None:
    """The options, or with the matrix that the refusal advises."""
    try:
        legible_layout(size, options)
    except ImageTooSmallError as error:
        return replace(options, matrix=error.largest) if error.largest else None
    return options


@settings(max_examples=60, deadline=None)
@given(
    st.integers(60, 1400),
    st.integers(60, 1400),
    st.integers(1, 14),
    st.integers(1, 14),
    st.sampled_from(LABEL_STYLES),
    st.sampled_from([None, 1, 12]),
)
def test_labels_never_overlap_nor_leave_the_canvas(
    width: int, height: int, rows: int, cols: int, style: LabelStyle, t: int | None
) -> None:
    """Or the image is refused with a matrix that fits."""
    options = OverlayOptions(matrix=Matrix(rows, cols), label_style=style, image_index=t)
    fitting = _fitting(options, (width, height))
    if fitting is None:
        return
    layout = legible_layout((width, height), fitting)
    assert not [label for label in layout.labels if label.overlaps or label.out_of_canvas]


def test_overlaps_are_counted_both_ways() -> None:
    canvas, dots, labels = (200, 100), [(60, 30), (62, 30)], [(40, 12), (40, 12)]
    placed = place_labels(canvas, dots, labels, 1, "fixed")
    assert [label.overlaps for label in placed] == [1, 1]
    moved = place_labels(canvas, dots, labels, 1, "auto")
    assert [label.overlaps for label in moved] == [0, 0]


def test_fixed_placement_may_leave_the_canvas_and_says_so() -> None:
    layout = legible_layout(
        (400, 400), OverlayOptions(matrix=Matrix(6, 6), placement="fixed", jitter=1.0, seed=1)
    )
    assert any(label.out_of_canvas for label in layout.labels)


@pytest.mark.parametrize("size", [(8000, 20), (20, 8000), (5, 5), (1, 1), (39, 39)])
def test_strips_and_specks_are_refused_with_advice(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmallError, match=r"resize\.min_side = \d+") as caught:
        draw_overlay(flat(*size, 100), LEGIBLE)
    scale = caught.value.minimum_side / min(size)
    larger = (round(size[0] * scale + 0.5), round(size[1] * scale + 0.5))
    assert legible_layout(larger, LEGIBLE).font_px >= 12


def test_auto_matrix_shrinks_to_what_fits() -> None:
    drawn = draw_overlay(flat(900, 90, 100), OverlayOptions(auto_matrix=True))
    assert drawn.matrix == Matrix(2, 6)
    assert len(drawn.dots) == 12
    with pytest.raises(ImageTooSmallError, match="at most 2 rows and 6 cols"):
        draw_overlay(flat(900, 90, 100), LEGIBLE)


def test_two_digit_labels_and_frames_are_part_of_the_fit() -> None:
    legible_layout((500, 500), OverlayOptions(matrix=Matrix(9, 9)))
    with pytest.raises(ImageTooSmallError):
        legible_layout((500, 500), OverlayOptions(matrix=Matrix(12, 12), image_index=10))


def test_labels_are_sized_for_what_the_model_will_see() -> None:
    plain = legible_layout((1600, 1200), LEGIBLE)
    shrunk = legible_layout((1600, 1200), OverlayOptions(target_model_side=400))
    assert shrunk.font_px >= 12 * 4 > plain.font_px


def test_font_follows_both_sides() -> None:
    assert legible_layout((1920, 1080), LEGIBLE).font_px == 38
    assert legible_layout((1080, 1920), LEGIBLE).font_px == 27


def test_jitter_returns_the_true_centres() -> None:
    options = OverlayOptions(jitter=0.3, seed=7, no_labels=True, color="magenta", plate="off")
    drawn = draw_overlay(flat(700, 700, 255), options)
    centres = [(dot.x, dot.y) for dot in drawn.dots]
    assert centres == dot_centres(Matrix(6, 6), (700, 700), 0.3, 7)
    assert all(tuple(drawn.pixels[y, x]) == (230, 0, 190) for x, y in centres)


def test_ablations_leave_out_what_they_name() -> None:
    plain = flat(600, 600, 255)
    no_dots = draw_overlay(plain.copy(), OverlayOptions(no_dots=True))
    assert tuple(no_dots.pixels[no_dots.dots[0].y, no_dots.dots[0].x]) == (255, 255, 255)
    nothing = draw_overlay(plain.copy(), OverlayOptions(no_dots=True, no_labels=True))
    np.testing.assert_array_equal(nothing.pixels, plain)
    shuffled = draw_overlay(plain.copy(), OverlayOptions(shuffle_labels=True, seed=1))
    assert [dot.label for dot in shuffled.dots] != [dot.label for dot in no_dots.dots]
    assert [(dot.row, dot.col) for dot in shuffled.dots] == [(dot.row, dot.col) for dot in no_dots.dots]


def test_opacity_grid_and_colour_change_the_picture() -> None:
    ground = photo(600, 600)
    full = draw_overlay(ground.copy(), OverlayOptions(color="#ff0000", plate="off")).pixels
    faint = draw_overlay(ground.copy(), OverlayOptions(color="#ff0000", plate="off", opacity=0.3)).pixels
    grid = draw_overlay(ground.copy(), OverlayOptions(color="#ff0000", plate="off", grid=True)).pixels

    def change(drawn: Pixels) -> float:
        return float(np.abs(drawn.astype(int) - ground).sum())

    assert 0 < change(faint) < 0.4 * change(full) < 0.4 * change(grid)


def test_fixed_plate_alpha_puts_every_label_on_a_plate() -> None:
    drawn = draw_overlay(flat(600, 600, 255), OverlayOptions(plate=200))
    assert all(dot.plate for dot in drawn.dots)
    assert not any(dot.plate for dot in draw_overlay(flat(600, 600, 255), LEGIBLE).dots)


def test_marks_hide_little_of_the_picture() -> None:
    """Share of changed pixels at 1024 x 768, 6 x 6: labels, plates and dots together."""
    ground = photo(1024, 768)
    drawn = draw_overlay(ground.copy(), LEGIBLE).pixels
    changed = float((drawn != ground).any(axis=2).mean())
    assert 0.01 < changed < 0.08


def test_read_only_input_is_copied() -> None:
    picture = photo(320, 240)
    picture.setflags(write=False)
    drawn = draw_overlay(picture, LEGIBLE)
    assert (drawn.pixels != picture).any()
