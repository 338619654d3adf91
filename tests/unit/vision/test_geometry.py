"""The geometry of the paper profile: goldens, properties, axes."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.vision.scaffold.geometry import (
    Box,
    Matrix,
    cell_box,
    crop_box,
    dot_centre,
    dot_centres,
    nearest_dot,
    paper_font_px,
    paper_radius,
)

GOLDENS = json.loads((Path(__file__).parent / "geometry_goldens.json").read_text())

sides = st.integers(27, 16_384)
matrices = st.builds(Matrix, rows=st.integers(1, 26), cols=st.integers(1, 26))


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda g: "{}x{}-{}x{}".format(*g["size"], *g["matrix"]))
def test_golden_centres_radius_and_font(golden: dict[str, Any]) -> None:
    """20 sizes x 4 matrices, written down once from the published rules."""
    width, height = golden["size"]
    matrix = Matrix(*golden["matrix"])
    expected = [(x, y) for y in golden["y"] for x in golden["x"]]
    assert dot_centres(matrix, (width, height)) == expected
    assert paper_radius((width, height)) == golden["radius"]
    assert paper_font_px((width, height)) == golden["font"]


def test_goldens_cover_twenty_sizes_and_four_matrices() -> None:
    assert len({tuple(golden["size"]) for golden in GOLDENS}) == 20
    assert len({tuple(golden["matrix"]) for golden in GOLDENS}) == 4
    assert len(GOLDENS) == 80


@given(sides, sides, matrices)
def test_dots_are_inside_increasing_and_leave_a_cell_free(width: int, height: int, matrix: Matrix) -> None:
    size = (width, height)
    xs = [dot_centre(matrix, size, 1, col)[0] for col in range(1, matrix.cols + 1)]
    ys = [dot_centre(matrix, size, row, 1)[1] for row in range(1, matrix.rows + 1)]
    for places, side, count in ((xs, width, matrix.cols), (ys, height, matrix.rows)):
        cell = side / (count + 1)
        assert all(a < b for a, b in itertools.pairwise(places))
        assert 0 <= places[0] <= cell
        assert places[-1] < side
        # Margins are symmetric up to the truncation of both centres to whole pixels.
        assert abs(places[0] - (side - places[-1])) <= 1 + 1e-6


@given(sides, sides, matrices, st.floats(0, 0.5), st.integers(0, 2**32))
def test_jitter_is_bounded_seeded_and_inside(
    width: int, height: int, matrix: Matrix, share: float, seed: int
) -> None:
    size = (width, height)
    moved = dot_centres(matrix, size, share, seed)
    assert moved == dot_centres(matrix, size, share, seed)
    cell_width, cell_height = matrix.cell(size)
    for (x, y), (x0, y0) in zip(moved, dot_centres(matrix, size), strict=True):
        assert 0 <= x < width
        assert 0 <= y < height
        assert abs(x - x0) <= share * cell_width + 0.5
        assert abs(y - y0) <= share * cell_height + 0.5


@given(sides, sides, matrices, st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True))
def test_nearest_dot_is_the_nearest_of_all(
    width: int, height: int, matrix: Matrix, right: float, down: float
) -> None:
    size, x, y = (width, height), right * (width - 1), down * (height - 1)
    near = nearest_dot(matrix, size, x, y)
    brute = min((cx - x) ** 2 + (cy - y) ** 2 for cx, cy in dot_centres(matrix, size))
    assert near.distance**2 == pytest.approx(brute, abs=1e-6)
    assert (near.x, near.y) == dot_centre(matrix, size, near.row, near.col)


@given(sides, sides, matrices, st.data())
def test_pixel_to_dot_stays_within_half_a_cell(
    width: int, height: int, matrix: Matrix, data: st.DataObject
) -> None:
    """Between the outermost dots half a cell, in the free margin a whole one; 1 px of truncation."""
    size = (width, height)
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    near = nearest_dot(matrix, size, x, y)
    cell_width, cell_height = matrix.cell(size)
    margin_x = x < cell_width or x > width - cell_width
    margin_y = y < cell_height or y > height - cell_height
    assert abs(near.x - x) <= (1.0 if margin_x else 0.5) * cell_width + 1
    assert abs(near.y - y) <= (1.0 if margin_y else 0.5) * cell_height + 1


@given(sides, sides, matrices)
def test_cells_cover_the_image(width: int, height: int, matrix: Matrix) -> None:
    size = (width, height)
    across = [cell_box(matrix, size, 1, col) for col in range(1, matrix.cols + 1)]
    down = [cell_box(matrix, size, row, 1) for row in range(1, matrix.rows + 1)]
    assert across[0].left == 0
    assert across[-1].right == width
    assert down[0].top == 0
    assert down[-1].bottom == height
    assert all(a.right >= b.left for a, b in itertools.pairwise(across))
    assert all(a.bottom >= b.top for a, b in itertools.pairwise(down))


def test_crop_does_not_swap_the_axes() -> None:
    """The reference names rows "x" and swaps twice; row 2 of 8 and col 9 of 10 tell the axes apart."""
    matrix, size = Matrix(rows=8, cols=10), (1100, 900)
    box = crop_box(matrix, size, [(2, 9)], radius=2)
    assert box == Box(left=700, top=0, right=1100, bottom=400)


def test_crop_around_several_dots_spans_them() -> None:
    box = crop_box(Matrix(6, 6), (700, 700), [(3, 2), (5, 5)], radius=0.5)
    assert box == Box(150, 250, 550, 550)


@pytest.mark.parametrize(
    ("dots", "radius"),
    [([], 2.0), ([(0, 1)], 2.0), ([(7, 1)], 2.0), ([(1, 1)], 0.0), ([(1, 1)], float("nan"))],
)
def test_crop_refuses_what_has_no_place(dots: list[tuple[float, float]], radius: float) -> None:
    with pytest.raises(ValueError):
        crop_box(Matrix(6, 6), (700, 700), dots, radius)


@pytest.mark.parametrize(("rows", "cols"), [(0, 3), (3, 0), (-1, 1)])
def test_a_matrix_has_dots(rows: int, cols: int) -> None:
    with pytest.raises(ValueError):
        Matrix(rows, cols)
