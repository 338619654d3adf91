"""Where the dots stand, which dot is nearest to a pixel, and what to cut out around one.

Knows sizes and matrices, never pixels. Rows count downwards and columns rightwards, both from 1
(Scaffold, section "exact reference geometry"). Sizes are (width, height) in pixels.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

PAPER_RADIUS_DIVISOR = 240
PAPER_FONT_DIVISOR = 40


@dataclass(frozen=True)
class Matrix:
    """An h x w dot matrix."""

    rows: int = 6
    cols: int = 6

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise ValueError("a dot matrix has at least one row and one column")

    def cell(self, size: tuple[int, int]) -> tuple[float, float]:
        """Width and height of one cell in pixels; a full cell is left free at every border."""
        return size[0] / (self.cols + 1), size[1] / (self.rows + 1)

    def contains(self, row: float, col: float) -> bool:
        """Whether (row, col) names a dot of this matrix."""
        return 1 <= row <= self.rows and 1 <= col <= self.cols

    def positions(self) -> list[tuple[int, int]]:
        """All (row, col) in drawing order, row by row."""
        return [(r, c) for r in range(1, self.rows + 1) for c in range(1, self.cols + 1)]


@dataclass(frozen=True)
class Box:
    """A half-open pixel rectangle: left <= x < right, top <= y < bottom."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def size(self) -> tuple[int, int]:
        return self.right - self.left, self.bottom - self.top

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def inside(self, size: tuple[int, int]) -> bool:
        return self.left >= 0 and self.top >= 0 and self.right <= size[0] and self.bottom <= size[1]

    def clamped(self, size: tuple[int, int]) -> Box:
        """The part of the box that lies on a canvas of `size`, at least one pixel of it."""
        left = min(max(self.left, 0), size[0] - 1)
        top = min(max(self.top, 0), size[1] - 1)
        return Box(
            left, top, max(left + 1, min(self.right, size[0])), max(top + 1, min(self.bottom, size[1]))
        )


@dataclass(frozen=True)
class NearestDot:
    """The dot next to a pixel: its place in the matrix, its centre, the distance in pixels."""

    row: int
    col: int
    x: int
    y: int
    distance: float


def dot_centre(matrix: Matrix, size: tuple[int, int], row: int, col: int) -> tuple[int, int]:
    """Centre of dot (row, col): `(int(col * W/(cols+1)), int(row * H/(rows+1)))`."""
    cell_width, cell_height = matrix.cell(size)
    return int(col * cell_width), int(row * cell_height)


def dot_centres(
    matrix: Matrix, size: tuple[int, int], jitter: float = 0.0, seed: int = 0
) -> list[tuple[int, int]]:
    """Centres of all dots, row by row.

    `jitter` in [0, 1] moves every centre uniformly by up to that share of a cell in each
    direction, the same way for the same seed; results stay on the canvas.
    """
    centres = [dot_centre(matrix, size, row, col) for row, col in matrix.positions()]
    if jitter == 0:
        return centres
    generator = random.Random(seed)
    cell_width, cell_height = matrix.cell(size)

    def moved(centre: tuple[int, int]) -> tuple[int, int]:
        x = centre[0] + generator.uniform(-jitter, jitter) * cell_width
        y = centre[1] + generator.uniform(-jitter, jitter) * cell_height
        return min(max(round(x), 0), size[0] - 1), min(max(round(y), 0), size[1] - 1)

    return [moved(centre) for centre in centres]


def paper_radius(size: tuple[int, int]) -> int:
    """Dot radius of the paper profile: 0 means a single pixel."""
    return size[0] // PAPER_RADIUS_DIVISOR


def paper_font_px(size: tuple[int, int]) -> int:
    """Label font size of the paper profile; 0 below a width of 40, where the reference fails."""
    return size[0] // PAPER_FONT_DIVISOR


def nearest_dot(matrix: Matrix, size: tuple[int, int], x: float, y: float) -> NearestDot:
    """The dot whose centre is nearest to pixel (x, y), ties going up and left."""
    cell_width, cell_height = matrix.cell(size)
    guess_col, guess_row = round(x / cell_width), round(y / cell_height)
    # Centres are truncated to whole pixels, so a neighbour of the rounded guess can be nearer.
    rows = {min(max(guess_row + step, 1), matrix.rows) for step in (-1, 0, 1)}
    cols = {min(max(guess_col + step, 1), matrix.cols) for step in (-1, 0, 1)}
    best: NearestDot | None = None
    for row in sorted(rows):
        for col in sorted(cols):
            centre_x, centre_y = dot_centre(matrix, size, row, col)
            distance = math.hypot(centre_x - x, centre_y - y)
            if best is None or distance < best.distance:
                best = NearestDot(row, col, centre_x, centre_y, distance)
    assert best is not None
    return best


def cell_box(matrix: Matrix, size: tuple[int, int], row: int, col: int) -> Box:
    """The pixels that belong to dot (row, col): half a cell around it, and up to the border for
    the outermost dots, so that the boxes of all dots cover the image."""
    cell_width, cell_height = matrix.cell(size)
    left = 0.0 if col == 1 else (col - 0.5) * cell_width
    right = size[0] if col == matrix.cols else (col + 0.5) * cell_width
    top = 0.0 if row == 1 else (row - 0.5) * cell_height
    bottom = size[1] if row == matrix.rows else (row + 0.5) * cell_height
    return Box(math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)).clamped(size)


def crop_box(
    matrix: Matrix,
    size: tuple[int, int],
    dots: Iterable[tuple[float, float]],
    radius: float = 2.0,
) -> Box:
    """The crop of the active-perception loop around one or several (row, col) dots.

    x runs over `[(c - radius) * cw, (c + radius) * cw]` and y over the same with the row and the
    cell height, clamped to the image. The row belongs to y and the column to x: the reference
    swaps the axes twice to the same end. Raises ValueError without dots, for dots outside of the
    matrix and for a radius that is not positive.
    """
    places = list(dots)
    if not places:
        raise ValueError("a crop needs at least one dot")
    if not radius > 0:
        raise ValueError("the crop radius must be positive")
    for row, col in places:
        if not matrix.contains(row, col):
            raise ValueError(f"dot ({row:g},{col:g}) is outside of the {matrix.rows} x {matrix.cols} matrix")
    cell_width, cell_height = matrix.cell(size)
    rows, cols = [row for row, _ in places], [col for _, col in places]
    return Box(
        math.floor((min(cols) - radius) * cell_width),
        math.floor((min(rows) - radius) * cell_height),
        math.ceil((max(cols) + radius) * cell_width),
        math.ceil((max(rows) + radius) * cell_height),
    ).clamped(size)
