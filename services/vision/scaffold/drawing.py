"""An overlay on an image: the one call behind both profiles, with its report.

Pixels are 8-bit sRGB (H, W, 3); decoding, orientation and resizing belong to the imaging package.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np

from services.vision.scaffold.colour import Pixels, Rgb
from services.vision.scaffold.geometry import Box, Matrix
from services.vision.scaffold.ink import Indices, Ink, choose_inks, label_contrasts, sample_points
from services.vision.scaffold.options import OverlayOptions
from services.vision.scaffold.paper import draw_paper
from services.vision.scaffold.placement import Layout, layout_key, legible_layout
from services.vision.scaffold.tiles import LabelPart, Style, mark_tile

GRID_KEEP = 176
"""Share of the ground that a grid line leaves, of 256."""


class Dot(NamedTuple):
    """One drawn dot with its label, in pixels of the image drawn on."""

    label: str
    row: int
    col: int
    x: int
    y: int
    color: Rgb
    label_box: Box
    contrast: float
    overlaps: int
    out_of_canvas: bool
    plate: bool


@dataclass(frozen=True)
class Legibility:
    """Contrast over all labels (WCAG ratio that four fifths of a label's area reach), labels
    that overlap another one, labels that leave the canvas."""

    min_contrast: float
    mean_contrast: float
    overlaps: int
    out_of_canvas: int


@dataclass(frozen=True)
class Overlay:
    """The drawn image and what stands on it: the layout, and the ink of each of its labels."""

    pixels: Pixels
    layout: Layout
    inks: list[Ink]

    @property
    def matrix(self) -> Matrix:
        """Differs from the wanted one only where `auto_matrix` reduced it."""
        return self.layout.matrix

    @cached_property
    def dots(self) -> tuple[Dot, ...]:
        layout = self.layout
        places = zip(layout.matrix.positions(), layout.centres, layout.texts, layout.labels, strict=True)
        return tuple(
            Dot(
                label=text,
                row=row,
                col=col,
                x=x,
                y=y,
                color=ink.colour,
                label_box=placed.box,
                contrast=ink.contrast,
                overlaps=placed.overlaps,
                out_of_canvas=placed.out_of_canvas,
                plate=ink.plate is not None,
            )
            for ((row, col), (x, y), text, placed), ink in zip(places, self.inks, strict=True)
        )

    @cached_property
    def legibility(self) -> Legibility:
        contrasts = [ink.contrast for ink in self.inks]
        return Legibility(
            min_contrast=min(contrasts),
            mean_contrast=sum(contrasts) / len(contrasts),
            overlaps=sum(1 for placed in self.layout.labels if placed.overlaps),
            out_of_canvas=sum(1 for placed in self.layout.labels if placed.out_of_canvas),
        )


class _Plan(NamedTuple):
    """What of a drawing the pixels do not decide: `points` of `sample_points`, and every label seen
    from its dot, None where labels are left out."""

    layout: Layout
    points: Indices
    labels: tuple[LabelPart | None, ...]


@lru_cache(maxsize=64)
def _plan(size: tuple[int, int], options: OverlayOptions) -> _Plan:
    layout = legible_layout(size, layout_key(options))
    labels = tuple(
        LabelPart(text, layout.font_px, layout.padding, label.box.left - x, label.box.top - y)
        for (x, y), text, label in zip(layout.centres, layout.texts, layout.labels, strict=True)
    )
    points = _points(size, layout)
    return _Plan(layout, points, (None,) * len(labels) if options.no_labels else labels)


@lru_cache(maxsize=64)
def _points(size: tuple[int, int], layout: Layout) -> Indices:
    return sample_points(layout, size)


def draw_overlay(pixels: Pixels, options: OverlayOptions) -> Overlay:
    """Draw the dot matrix on pixels (H, W, 3).

    The legible profile draws **in place** when the array is writable and contiguous, since a copy
    costs as much as the drawing; the paper profile always returns a copy. Raises
    ImageTooSmallError where the labels cannot fit, ValueError for an unknown colour.
    """
    if options.profile == "paper":
        return _paper_overlay(pixels, options)
    size = (pixels.shape[1], pixels.shape[0])
    plan = _plan(size, options)
    canvas = np.require(pixels, requirements=["C", "W"])
    inks = choose_inks(canvas, plan.points, options)
    if options.grid:
        _draw_grid(canvas, plan.layout)
    _paint(canvas, plan, inks, options)
    return Overlay(canvas, plan.layout, inks)


def _paint(canvas: Pixels, plan: _Plan, inks: list[Ink], options: OverlayOptions) -> None:
    if options.no_dots and options.no_labels:
        return
    rows = canvas.reshape(len(canvas), -1)
    radius = None if options.no_dots else plan.layout.radius
    opacity = options.opacity
    for (x, y), label, (colour, plate, _) in zip(plan.layout.centres, plan.labels, inks, strict=True):
        mark_tile(radius, label, Style(colour, plate, opacity)).paint(rows, x, y)


def _draw_grid(canvas: Pixels, layout: Layout) -> None:
    """Lines one pixel wide through the dots, mixed with mid grey turned away from the ground."""
    rows = {y for _, y in layout.centres}
    cols = {x for x, _ in layout.centres}
    lines = [canvas[y, :] for y in sorted(rows)] + [canvas[:, x] for x in sorted(cols)]
    for line in lines:
        target = np.where(line > 127, 0, 255).astype(np.uint16)
        mixed = line * np.uint16(GRID_KEEP) + target * np.uint16(256 - GRID_KEEP)
        line[:] = (mixed >> 8).astype(np.uint8)


def _paper_overlay(pixels: Pixels, options: OverlayOptions) -> Overlay:
    drawn, layout, colours = draw_paper(pixels, options)
    size = (pixels.shape[1], pixels.shape[0])
    # The ink is the paper's; only its contrast is measured here, on the undrawn picture.
    contrasts = label_contrasts(pixels, sample_points(layout, size), colours)
    inks = [Ink(colour, None, value) for colour, value in zip(colours, contrasts, strict=True)]
    return Overlay(drawn, layout, inks)
