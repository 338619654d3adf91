"""What is written beside a dot.

Every style keeps the matrix order of the paper: the first number grows downwards, the second
rightwards. `t` is the index of the image in a sequence, counted from 1.
"""

from __future__ import annotations

import random
from typing import Literal, get_args

from services.vision.scaffold.geometry import Matrix

LabelStyle = Literal["(r,c)", "r,c", "A1", "number", "normalised"]
LABEL_STYLES: tuple[LabelStyle, ...] = get_args(LabelStyle)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
NORMALISED_SIDE = 1000


def label_text(style: LabelStyle, matrix: Matrix, row: int, col: int, t: int | None = None) -> str:
    """The label of dot (row, col), e.g. `(2,3)`, `(1,2,3)`, `2,3`, `B3`, `9`, `(286,429)`.

    `normalised` gives the dot's place in thousandths of the height and of the width. Styles
    without brackets carry the image index as a prefix, `2:B3`.
    """
    if style == "A1":
        text = f"{LETTERS[row - 1]}{col}"
        return text if t is None else f"{t}:{text}"
    if style == "number":
        text = str((row - 1) * matrix.cols + col)
        return text if t is None else f"{t}:{text}"
    if style == "normalised":
        row = round(NORMALISED_SIDE * row / (matrix.rows + 1))
        col = round(NORMALISED_SIDE * col / (matrix.cols + 1))
    body = f"{row},{col}" if t is None else f"{t},{row},{col}"
    return body if style == "r,c" else f"({body})"


def label_form(style: LabelStyle, sequence: bool) -> str:
    """How labels look, as the prompt names it: `(x,y)`, `(t,x,y)`, `A1` ..."""
    forms: dict[LabelStyle, tuple[str, str]] = {
        "(r,c)": ("(x,y)", "(t,x,y)"),
        "r,c": ("x,y", "t,x,y"),
        "A1": ("A1", "t:A1"),
        "number": ("n", "t:n"),
        "normalised": ("(x,y)", "(t,x,y)"),
    }
    return forms[style][1 if sequence else 0]


def matrix_labels(
    style: LabelStyle,
    matrix: Matrix,
    t: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
) -> list[str]:
    """Labels of all dots, row by row; `shuffle` permutes them (an ablation: a model that reads
    the labels must get worse)."""
    labels = [label_text(style, matrix, row, col, t) for row, col in matrix.positions()]
    if shuffle:
        random.Random(seed).shuffle(labels)
    return labels
