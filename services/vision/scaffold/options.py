"""What a caller may choose about an overlay, and the two ways in which an image can refuse it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from services.vision.scaffold.geometry import Matrix
from services.vision.scaffold.labels import LabelStyle

Profile = Literal["paper", "legible"]
Placement = Literal["auto", "fixed"]

MAXIMUM_SIDE_OF_MATRIX = 26
MAXIMUM_DOTS = 400
MINIMUM_FONT_PX = 12
PLATE_ALPHA = 160


@dataclass(frozen=True)
class OverlayOptions:
    """One overlay. Hashable: layouts and label masks are cached by it.

    `plate` is "auto", "off" or a fixed alpha in 1..255. `color` is "auto", a name or `#rrggbb`.
    `font_px`, `radius_px` in pixels of the working image; None chooses them. `opacity` in (0, 1].
    `target_model_side` is the longer side to which the reading model shrinks images, in pixels.
    `no_labels`, `no_dots`, `shuffle_labels` and `jitter` (share of a cell) are ablations.
    """

    profile: Profile = "legible"
    matrix: Matrix = field(default_factory=Matrix)
    image_index: int | None = None
    label_style: LabelStyle = "(r,c)"
    font_px: int | None = None
    radius_px: int | None = None
    color: str = "auto"
    plate: Literal["auto", "off"] | int = "auto"
    placement: Placement = "auto"
    opacity: float = 1.0
    grid: bool = False
    jitter: float = 0.0
    seed: int = 0
    no_labels: bool = False
    no_dots: bool = False
    shuffle_labels: bool = False
    auto_matrix: bool = False
    target_model_side: int | None = None


class ImageTooSmallError(ValueError):
    """The labels cannot fit. `largest` is the largest matrix that would, None where none does;
    `minimum_side` the shorter side, in pixels, at which the wanted matrix fits."""

    def __init__(
        self, size: tuple[int, int], matrix: Matrix, largest: Matrix | None, minimum_side: int
    ) -> None:
        advice = f"enlarge it with resize.min_side = {minimum_side}"
        if largest is not None:
            advice = f"use at most {largest.rows} rows and {largest.cols} cols, or {advice}"
        super().__init__(
            f"{matrix.rows} x {matrix.cols} labels do not fit an image of "
            f"{size[0]} x {size[1]} pixels: {advice}"
        )
        self.size = size
        self.matrix = matrix
        self.largest = largest
        self.minimum_side = minimum_side
