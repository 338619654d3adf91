"""From words to pixels and back: mentions get pixel positions, pixels get their nearest dot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.vision.scaffold.affine import Affine
from services.vision.scaffold.geometry import Box, Matrix, cell_box, dot_centre, nearest_dot
from services.vision.scaffold.labels import LabelStyle, label_text
from services.vision.scaffold.mentions import Mention, MentionRange

Point = tuple[float, float]


@dataclass(frozen=True)
class Grid:
    """A matrix on an image of `size` (width, height); `transform` maps its pixels to the
    original's."""

    matrix: Matrix
    size: tuple[int, int]
    transform: Affine = field(default_factory=Affine)

    def locate(self, mention: Mention) -> Point | None:
        """Pixel of a mention; None where no such dot exists."""
        return self.at(mention.row, mention.col) if mention.in_range else None

    def at(self, row: float, col: float) -> Point:
        """Pixel of the place (row, col): the dot's truncated centre, or between dots the exact
        place."""
        if row == int(row) and col == int(col) and self.matrix.contains(row, col):
            return dot_centre(self.matrix, self.size, int(row), int(col))
        cell_width, cell_height = self.matrix.cell(self.size)
        return (
            min(max(col * cell_width, 0.0), self.size[0] - 1.0),
            min(max(row * cell_height, 0.0), self.size[1] - 1.0),
        )

    def range_box(self, span: MentionRange) -> Box | None:
        """Pixels of a range: all that is nearer to its dots than to others. None where a corner
        does not exist."""
        corners = [(span.top, span.left), (span.bottom, span.right)]
        if not all(self.matrix.contains(row, col) for row, col in corners):
            return None
        (top, left), (bottom, right) = corners
        first = cell_box(self.matrix, self.size, round(top), round(left))
        last = cell_box(self.matrix, self.size, round(bottom), round(right))
        return Box(first.left, first.top, last.right, last.bottom)


@dataclass(frozen=True)
class NamedPixel:
    """A pixel in the words of the matrix: the nearest dot, its label, how far off it is (pixels)
    and the box of the cell, all on the labelled image."""

    x: float
    y: float
    row: int
    col: int
    label: str
    dot_x: int
    dot_y: int
    distance: float
    cell: Box


def name_pixel(
    grid: Grid,
    x: float,
    y: float,
    style: LabelStyle = "(r,c)",
    t: int | None = None,
    original: bool = False,
) -> NamedPixel:
    """The nearest dot of a pixel, given on the labelled image or (`original`) on the original.

    Raises ValueError for a pixel outside of the image.
    """
    if original:
        x, y = grid.transform.inverse().apply(x, y)
    width, height = grid.size
    if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
        raise ValueError(f"pixel ({x:g}, {y:g}) is outside of the {width} x {height} image")
    near = nearest_dot(grid.matrix, grid.size, x, y)
    return NamedPixel(
        x=x,
        y=y,
        row=near.row,
        col=near.col,
        label=label_text(style, grid.matrix, near.row, near.col, t),
        dot_x=near.x,
        dot_y=near.y,
        distance=near.distance,
        cell=cell_box(grid.matrix, grid.size, near.row, near.col),
    )


def original_box(box: Box, transform: Affine) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a box after `transform`: the edges of its outermost pixels,
    in order even where the transform mirrors or turns."""
    corners = [transform.apply(x, y) for x in (box.left, box.right - 1) for y in (box.top, box.bottom - 1)]
    return bounding(corners)


def bounding(points: Sequence[Point]) -> tuple[float, float, float, float]:
    """Smallest (left, top, right, bottom) around points."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)
