"""Synthetic scenes with exact ground truth, in the manner of VSR, CLEVR and Winoground.

Coloured shapes on a photo-like ground; questions on relation, position, attribute and count. The
ground truth of every question includes the pixel at which one has to look.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageDraw

from benchmarks.vision.photos import photo

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (210, 30, 30),
    "green": (20, 150, 40),
    "blue": (30, 60, 210),
    "yellow": (240, 210, 20),
    "white": (250, 250, 250),
    "black": (10, 10, 10),
}
Kind = Literal["relation", "position", "attribute", "order"]
KINDS: tuple[Kind, ...] = ("relation", "position", "attribute", "order")


@dataclass(frozen=True)
class Thing:
    """One shape; its centre and radius in pixels."""

    colour: str
    shape: str
    x: int
    y: int
    radius: int

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """An image, a question about it, the true answer and the pixel that decides it."""

    image: Image.Image
    things: tuple[Thing, ...]
    kind: Kind
    question: str
    answer: str
    choices: tuple[str, ...]
    target: tuple[int, int]


def _place(generator: random.Random, width: int, height: int, count: int) -> list[Thing]:
    things: list[Thing] = []
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for colour, shape in generator.sample(names, count):
        for _ in range(200):
            radius = generator.randint(height // 40, height // 16)
            x = generator.randint(width // 7, width - width // 7)
            y = generator.randint(height // 7, height - height // 7)
            apart = (abs(x - t.x) > 2 * (radius + t.radius) for t in things)
            also = (abs(y - t.y) > radius + t.radius for t in things)
            if all(apart) and all(also):
                things.append(Thing(colour, shape, x, y, radius))
                break
    return things


def _paint(things: list[Thing], width: int, height: int, seed: int) -> Image.Image:
    image = Image.fromarray(photo(width, height, seed))
    draw = ImageDraw.Draw(image)
    for thing in things:
        x, y, r = thing.x, thing.y, thing.radius
        ink, edge = COLOURS[thing.colour], (128, 128, 128)
        if thing.shape == "circle":
            draw.ellipse((x - r, y - r, x + r, y + r), fill=ink, outline=edge)
        elif thing.shape == "square":
            draw.rectangle((x - r, y - r, x + r, y + r), fill=ink, outline=edge)
        else:
            draw.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=ink, outline=edge)
    return image


def make_scene(seed: int, width: int = 960, height: int = 720) -> Scene:
    """The scene of a seed; the same one every time."""
    generator = random.Random(seed)
    things: list[Thing] = []
    while len(things) < 3:
        things = _place(generator, width, height, 4)
    kind = KINDS[seed % len(KINDS)]
    first, second = generator.sample(things, 2)
    image = _paint(things, width, height, seed)
    target = (first.x, first.y)
    if kind == "relation":
        truth = "yes" if first.x < second.x else "no"
        question = f"Is the {first.name} to the left of the {second.name}? Answer yes or no."
        choices: tuple[str, ...] = ("yes", "no")
    elif kind == "position":
        truth = (
            ("upper" if first.y < height / 2 else "lower")
            + " "
            + ("left" if first.x < width / 2 else "right")
        )
        choices = ("upper left", "upper right", "lower left", "lower right")
        question = f"In which quarter of the image is the {first.name}: {', '.join(choices)}?"
    elif kind == "attribute":
        same_shape = [thing for thing in things if thing.shape == first.shape]
        lowest = max(same_shape, key=lambda thing: thing.y)
        truth, target = lowest.colour, (lowest.x, lowest.y)
        question = f"Which colour has the lowest {first.shape}: {', '.join(COLOURS)}?"
        choices = tuple(COLOURS)
    else:
        truth = "first" if first.y < second.y else "second"
        question = (
            "Which sentence fits the image, the first or the second? First: the "
            f"{first.name} is above the {second.name}. Second: the {second.name} is above the {first.name}."
        )
        choices = ("first", "second")
    return Scene(image, tuple(things), kind, question, truth, choices, target)
