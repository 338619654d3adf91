"""Affine maps between the pixel grids of one image: stored, upright, resized, cropped.

Knows only arithmetic. Integer coordinates are pixel centres, so scaling maps the outer edges
(-0.5 and side - 0.5) onto each other and not the centres of the first pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

Rows = tuple[tuple[float, float, float], tuple[float, float, float]]


@dataclass(frozen=True)
class Affine:
    """`x' = a x + b y + c`, `y' = d x + e y + f`, both sides in pixels."""

    a: float = 1.0
    b: float = 0.0
    c: float = 0.0
    d: float = 0.0
    e: float = 1.0
    f: float = 0.0

    @classmethod
    def translation(cls, dx: float, dy: float) -> Affine:
        """Move by (dx, dy) pixels; a crop at (left, top) maps to its parent with (left, top)."""
        return cls(c=dx, f=dy)

    @classmethod
    def resize(cls, source: tuple[int, int], target: tuple[int, int]) -> Affine:
        """Map pixels of an image of size `source` (width, height) onto its resized copy."""
        scale_x, scale_y = target[0] / source[0], target[1] / source[1]
        return cls(a=scale_x, c=(scale_x - 1) / 2, e=scale_y, f=(scale_y - 1) / 2)

    @classmethod
    def upright_to_stored(cls, orientation: int, stored: tuple[int, int]) -> Affine:
        """Map upright pixels to stored ones for EXIF `orientation` 1-8 and a stored (width, height).

        Raises ValueError for any other orientation.
        """
        right, bottom = stored[0] - 1.0, stored[1] - 1.0
        maps = {
            1: cls(),
            2: cls(a=-1, c=right),
            3: cls(a=-1, c=right, e=-1, f=bottom),
            4: cls(e=-1, f=bottom),
            5: cls(a=0, b=1, d=1, e=0),
            6: cls(a=0, b=1, d=-1, e=0, f=bottom),
            7: cls(a=0, b=-1, c=right, d=-1, e=0, f=bottom),
            8: cls(a=0, b=-1, c=right, d=1, e=0),
        }
        if orientation not in maps:
            raise ValueError(f"EXIF orientation {orientation} is not one of 1 to 8")
        return maps[orientation]

    @classmethod
    def from_rows(cls, rows: Rows) -> Affine:
        """Read a 2x3 matrix given as two rows."""
        (a, b, c), (d, e, f) = rows
        return cls(a, b, c, d, e, f)

    def rows(self) -> Rows:
        """The 2x3 matrix as two rows, as it crosses the wire."""
        return (self.a, self.b, self.c), (self.d, self.e, self.f)

    def apply(self, x: float, y: float) -> tuple[float, float]:
        """The image of the point (x, y)."""
        return self.a * x + self.b * y + self.c, self.d * x + self.e * y + self.f

    def then(self, following: Affine) -> Affine:
        """The map that applies this one first and `following` after it."""
        g = following
        return Affine(
            a=g.a * self.a + g.b * self.d,
            b=g.a * self.b + g.b * self.e,
            c=g.a * self.c + g.b * self.f + g.c,
            d=g.d * self.a + g.e * self.d,
            e=g.d * self.b + g.e * self.e,
            f=g.d * self.c + g.e * self.f + g.f,
        )

    def inverse(self) -> Affine:
        """The map back. Raises ValueError where this one flattens the plane."""
        determinant = self.a * self.e - self.b * self.d
        if determinant == 0:
            raise ValueError("the affine map has no inverse: its determinant is 0")
        a, b = self.e / determinant, -self.b / determinant
        d, e = -self.d / determinant, self.a / determinant
        return Affine(a, b, -(a * self.c + b * self.f), d, e, -(d * self.c + e * self.f))
