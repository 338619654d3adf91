"""Reading coordinates out of a model's words.

Knows label styles and text, no pixels. A model may name dots that do not exist or swap the axes:
both are reported, never repaired. Every pattern matches in linear time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from services.vision.scaffold.geometry import Matrix
from services.vision.scaffold.labels import LETTERS, NORMALISED_SIDE, LabelStyle

MAXIMUM_TEXT = 200_000
MAXIMUM_MENTIONS = 10_000

_FOLD = str.maketrans(
    "（）［］，、：０１２３４５６７８９－～\u00a0\u3000\u2009\u202f",
    "()[],,:0123456789-~    ",
)
"""Full-width forms and odd spaces, one character for one, so that offsets stay true."""
_GAP = r"\s{0,4}"
_NUMBER = r"(\d{1,4})"
_TRIPLE = rf"{_NUMBER}{_GAP},{_GAP}{_NUMBER}(?:{_GAP},{_GAP}{_NUMBER})?"
_PATTERNS: dict[LabelStyle, re.Pattern[str]] = {
    "(r,c)": re.compile(rf"\({_GAP}{_TRIPLE}{_GAP}\)"),
    "normalised": re.compile(rf"\({_GAP}{_TRIPLE}{_GAP}\)"),
    "r,c": re.compile(rf"(?<![\d.,]){_TRIPLE}(?![\d]|[.,]\d)"),
    "A1": re.compile(rf"(?<![0-9A-Za-z])(?:(\d{{1,3}}){_GAP}:{_GAP})?([A-Za-z])(\d{{1,2}})(?![0-9A-Za-z])"),
    "number": re.compile(rf"(?<![\w.,])(?:(\d{{1,3}}){_GAP}:{_GAP})?(\d{{1,4}})(?![\w]|[.,]\d)"),
}
_CONNECTOR = re.compile(r"\s{0,4}(?:through|thru|to|until|till|up to|bis|-|–|—|~|…|\.{2,3})\s{0,4}", re.I)
_CONJUNCTION = re.compile(r"\s{0,4}(?:and|und)\s{0,4}", re.I)
_BETWEEN = re.compile(r"(?:between|zwischen)\s{0,4}$", re.I)
_ANSWER = re.compile(r"\[\[([^\[\]]{0,4000})\]\]")


@dataclass(frozen=True)
class Mention:
    """One named dot: `text[start:end]`, its place, whether such a dot exists.

    `row` and `col` are whole except in the `normalised` style, where they may fall between dots.
    `t` is the image index, None in one-image labels. `swapped_in_range` tells that the dot does
    not exist but would with row and column exchanged.
    """

    start: int
    end: int
    text: str
    t: int | None
    row: float
    col: float
    in_range: bool
    swapped_in_range: bool


@dataclass(frozen=True)
class MentionRange:
    """Two mentions joined by "through", "to", a dash or "between ... and ...", as indices into
    the list of mentions, with the rows and columns that they span."""

    first: int
    last: int
    top: float
    left: float
    bottom: float
    right: float


@dataclass(frozen=True)
class Reading:
    """What a text says: mentions in order, ranges among them, the last `[[answer]]`."""

    mentions: tuple[Mention, ...]
    ranges: tuple[MentionRange, ...]
    answer: str | None
    answer_span: tuple[int, int] | None

    def in_answer(self) -> list[Mention]:
        """Mentions inside of the answer's brackets."""
        if self.answer_span is None:
            return []
        start, end = self.answer_span
        return [m for m in self.mentions if start <= m.start and m.end <= end]


def _place(style: LabelStyle, found: re.Match[str], matrix: Matrix) -> tuple[int | None, float, float]:
    """(t, row, col) of a match, row and col counted from 1."""
    if style == "A1":
        prefix, letter, number = found.groups()
        return (int(prefix) if prefix else None), LETTERS.index(letter.upper()) + 1, int(number)
    if style == "number":
        prefix, number = found.groups()
        row, col = divmod(int(number) - 1, matrix.cols)
        return (int(prefix) if prefix else None), row + 1, col + 1
    first, second, third = found.groups()
    index, down, right = (None, first, second) if third is None else (int(first), second, third)
    if style == "normalised":
        return (
            index,
            int(down) * (matrix.rows + 1) / NORMALISED_SIDE,
            int(right) * (matrix.cols + 1) / NORMALISED_SIDE,
        )
    return index, int(down), int(right)


def _exists(style: LabelStyle, matrix: Matrix, row: float, col: float) -> bool:
    if style == "normalised":
        return 0 <= row <= matrix.rows + 1 and 0 <= col <= matrix.cols + 1
    return matrix.contains(row, col)


def read_text(text: str, matrix: Matrix, style: LabelStyle = "(r,c)", images: int | None = None) -> Reading:
    """Find every coordinate in `text`, at most 10,000 of them.

    `images` bounds the image index `t` of sequences. Raises ValueError for texts longer than
    200,000 characters.
    """
    if len(text) > MAXIMUM_TEXT:
        raise ValueError(f"the text has {len(text)} characters, at most {MAXIMUM_TEXT} are read")
    folded = text.translate(_FOLD)
    mentions: list[Mention] = []
    for found in _PATTERNS[style].finditer(folded):
        t, row, col = _place(style, found, matrix)
        known_image = t is None or images is None or 1 <= t <= images
        exists = known_image and _exists(style, matrix, row, col)
        mentions.append(
            Mention(
                start=found.start(),
                end=found.end(),
                text=text[found.start() : found.end()],
                t=t,
                row=row,
                col=col,
                in_range=exists,
                swapped_in_range=known_image and not exists and _exists(style, matrix, col, row),
            )
        )
        if len(mentions) == MAXIMUM_MENTIONS:
            break
    answers = list(_ANSWER.finditer(folded))
    span = answers[-1].span(1) if answers else None
    return Reading(
        tuple(mentions),
        tuple(_ranges(folded, mentions)),
        text[span[0] : span[1]].strip() if span else None,
        span,
    )


def _ranges(folded: str, mentions: list[Mention]) -> list[MentionRange]:
    found: list[MentionRange] = []
    for index in range(len(mentions) - 1):
        first, last = mentions[index], mentions[index + 1]
        if last.start - first.end > 16 or first.t != last.t:
            continue
        gap = folded[first.end : last.start]
        joined = _CONNECTOR.fullmatch(gap) is not None
        if not joined and _CONJUNCTION.fullmatch(gap):
            joined = _BETWEEN.search(folded[max(0, first.start - 16) : first.start]) is not None
        if joined:
            found.append(
                MentionRange(
                    first=index,
                    last=index + 1,
                    top=min(first.row, last.row),
                    left=min(first.col, last.col),
                    bottom=max(first.row, last.row),
                    right=max(first.col, last.col),
                )
            )
    return found
