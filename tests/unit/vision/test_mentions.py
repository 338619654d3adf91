"""Reading coordinates from text, and pixels from readings."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.vision.scaffold.affine import Affine
from services.vision.scaffold.geometry import Box, Matrix
from services.vision.scaffold.labels import LABEL_STYLES, LabelStyle, label_text
from services.vision.scaffold.mentions import MAXIMUM_MENTIONS, read_text
from services.vision.scaffold.resolve import Grid, name_pixel, original_box

SIX = Matrix(6, 6)


@pytest.mark.parametrize(
    "text",
    [
        "the cup at (3,2).",
        "( 3 , 2 )",
        "（3，2）",
        "（３，２）",
        "(3、2)",
        "at\n(3,\u00a02)",
        "**(3,2)**",
        "((3,2))",
    ],
)
def test_one_mention_in_many_spellings(text: str) -> None:
    (mention,) = read_text(text, SIX).mentions
    assert (mention.t, mention.row, mention.col, mention.in_range) == (None, 3, 2, True)
    assert text[mention.start : mention.end] == mention.text
    assert mention.text[0] in "(（"


def test_three_numbers_are_an_image_and_a_place() -> None:
    first, second = read_text("(1,3,2) moved to (2,4,5)", SIX, images=2).mentions
    assert (first.t, first.row, first.col) == (1, 3, 2)
    assert (second.t, second.row, second.col, second.in_range) == (2, 4, 5, True)
    assert not read_text("(3,3,2)", SIX, images=2).mentions[0].in_range


def test_places_that_do_not_exist_are_reported_not_repaired() -> None:
    gone, swapped = read_text("(9,9) and (7,2)", Matrix(rows=6, cols=8)).mentions
    assert (gone.in_range, gone.swapped_in_range) == (False, False)
    assert (swapped.row, swapped.col, swapped.in_range, swapped.swapped_in_range) == (7, 2, False, True)
    assert Grid(Matrix(6, 8), (900, 700)).locate(swapped) is None


@pytest.mark.parametrize(
    "text",
    [
        "(3,2) through (6,4)",
        "(3,2)-(6,4)",
        "（3,2）–（6,4）",
        "from (3,2) to (6,4)",
        "between (6,4) and (3,2)",
    ],
)
def test_ranges(text: str) -> None:
    reading = read_text(text, SIX)
    (span,) = reading.ranges
    assert (span.top, span.left, span.bottom, span.right) == (3, 2, 6, 4)
    box = Grid(SIX, (700, 700)).range_box(span)
    assert box == Box(150, 250, 450, 700)


@pytest.mark.parametrize(
    "text", ["(3,2), (6,4)", "(3,2) and (6,4)", "(1,3,2) to (2,6,4)", "(3,2) is left of (6,4)"]
)
def test_not_every_pair_is_a_range(text: str) -> None:
    assert read_text(text, SIX).ranges == ()


def test_the_last_bracketed_answer_counts() -> None:
    text = "maybe [[no]], rather [[ the red mug at (2,5) ]]."
    reading = read_text("(1,1) " + text, SIX)
    assert reading.answer == "the red mug at (2,5)"
    assert [m.text for m in reading.in_answer()] == ["(2,5)"]
    assert read_text("nothing here", SIX).answer is None


@pytest.mark.parametrize(
    ("style", "text", "place"),
    [
        ("r,c", "look at 3,2 there", (3, 2)),
        ("A1", "cell C2 shows it", (3, 2)),
        ("number", "dot 14 shows it", (3, 2)),
        ("normalised", "near (429,286)", (3.003, 2.002)),
    ],
)
def test_other_styles(style: LabelStyle, text: str, place: tuple[float, float]) -> None:
    (mention,) = read_text(text, SIX, style).mentions
    assert (mention.row, mention.col) == pytest.approx(place)


def test_numbers_in_prose_are_no_coordinates() -> None:
    assert read_text("It costs 1,000.50 or 3.5,2 but f(x) stays", SIX).mentions == ()
    assert read_text("It costs 1,000,000.50", SIX, "r,c").mentions == ()


@given(
    st.sampled_from(LABEL_STYLES),
    st.integers(1, 26),
    st.integers(1, 15),
    st.sampled_from([None, 1, 16]),
    st.data(),
)
def test_every_label_is_read_back(
    style: LabelStyle, rows: int, cols: int, t: int | None, data: st.DataObject
) -> None:
    matrix = Matrix(rows, cols)
    row, col = data.draw(st.integers(1, rows)), data.draw(st.integers(1, cols))
    label = label_text(style, matrix, row, col, t)
    (mention,) = read_text(f"The key lies at {label} on the table", matrix, style, images=16).mentions
    assert (mention.t, round(mention.row), round(mention.col), mention.in_range) == (t, row, col, True)


@settings(max_examples=300)
@given(st.text(alphabet="()（）[],，0123456789 tot-AB\n", max_size=400), st.sampled_from(LABEL_STYLES))
def test_any_text_is_read_with_true_offsets(text: str, style: LabelStyle) -> None:
    reading = read_text(text, SIX, style)
    for mention in reading.mentions:
        assert text[mention.start : mention.end] == mention.text
    starts = [mention.start for mention in reading.mentions]
    assert starts == sorted(starts)
    for span in reading.ranges:
        assert span.last == span.first + 1 < len(reading.mentions) + 1


@pytest.mark.parametrize(
    "hostile", ["(" * 200_000, "(1," * 66_000, "[[" * 100_000, "1" * 200_000, " " * 200_000]
)
@pytest.mark.parametrize("style", LABEL_STYLES)
def test_hostile_text_takes_linear_time(hostile: str, style: LabelStyle) -> None:
    started = time.perf_counter()
    read_text(hostile, SIX, style)
    assert time.perf_counter() - started < 5


def test_lists_and_texts_are_bounded() -> None:
    assert len(read_text("(1,1)" * 20_000, SIX).mentions) == MAXIMUM_MENTIONS
    with pytest.raises(ValueError, match="200000"):
        read_text("x" * 200_001, SIX)


sizes = st.tuples(st.integers(200, 4000), st.integers(200, 4000))


@given(sizes, st.integers(1, 8), st.data())
def test_pixel_to_label_to_text_to_pixel(
    size: tuple[int, int], orientation: int, data: st.DataObject
) -> None:
    """Stored pixel -> crop of the upright picture, resized, with dots -> label -> sentence -> stored
    pixel, within half a cell (a whole one in the free margin)."""
    scale = data.draw(st.floats(0.3, 2.0))
    upright = size if orientation < 5 else (size[1], size[0])
    left, top = data.draw(st.integers(0, upright[0] - 100)), data.draw(st.integers(0, upright[1] - 100))
    width, height = (
        data.draw(st.integers(100, side - start)) for side, start in zip(upright, (left, top), strict=True)
    )
    working = (max(60, round(width * scale)), max(60, round(height * scale)))
    to_upright = Affine.resize(working, (width, height)).then(Affine.translation(left, top))
    to_stored = to_upright.then(Affine.upright_to_stored(orientation, size))
    matrix = Matrix(data.draw(st.integers(2, 20)), data.draw(st.integers(2, 20)))
    grid = Grid(matrix, working, to_stored)
    x, y = data.draw(st.integers(left, left + width - 1)), data.draw(st.integers(top, top + height - 1))
    stored = Affine.upright_to_stored(orientation, size).apply(x, y)
    named = name_pixel(grid, *stored, original=True)
    (mention,) = read_text(f"it is at {named.label}.", matrix).mentions
    place = grid.locate(mention)
    assert place is not None
    cell_width, cell_height = matrix.cell(working)
    inner_x = cell_width <= named.x <= working[0] - cell_width
    inner_y = cell_height <= named.y <= working[1] - cell_height
    assert abs(place[0] - named.x) <= cell_width * (0.5 if inner_x else 1) + 1
    assert abs(place[1] - named.y) <= cell_height * (0.5 if inner_y else 1) + 1
    back = to_stored.apply(*place)
    assert -1 <= back[0] <= size[0]
    assert -1 <= back[1] <= size[1]


def test_pixels_outside_have_no_name() -> None:
    with pytest.raises(ValueError, match="outside"):
        name_pixel(Grid(SIX, (100, 100)), 100, 3)


def test_boxes_keep_their_order_when_the_image_is_turned() -> None:
    turned = Affine.upright_to_stored(6, (400, 300))
    left, top, right, bottom = original_box(Box(10, 20, 30, 50), turned)
    assert left < right
    assert top < bottom
    assert (right - left, bottom - top) == (29, 19)
