"""A chart for a result, when it has a natural one: a Vega-Lite specification without its data.

Pure. Two or three columns of which exactly one or two are numbers, 2 to 500 rows, and a label column
that is not mostly repeated; anything else has no chart.
"""

from __future__ import annotations

import re
from typing import Any

from services.text2sql.pisql.objects import ResultTable

_DATE = re.compile(r"^\d{4}-\d{2}(-\d{2})?([ T]\d{2}:\d{2}.*)?$")
_YEAR = re.compile(r"^(1[5-9]|20|21)\d{2}$")
MOST_ROWS = 500
MOST_BARS = 40


def suggest(result: ResultTable | None) -> dict[str, Any] | None:
    """The specification, fields named by column, or None."""
    if result is None or not 2 <= len(result.rows) <= MOST_ROWS or len(result.columns) not in (2, 3):
        return None
    if len(set(result.columns)) != len(result.columns):
        return None
    kinds = {name: _kind([row[index] for row in result.rows]) for index, name in enumerate(result.columns)}
    numbers = [name for name, kind in kinds.items() if kind == "quantitative"]
    labels = [name for name in kinds if name not in numbers]
    if len(numbers) == 2 and not labels:
        return _chart("point", _field(numbers[0], "quantitative"), _field(numbers[1], "quantitative"))
    if not labels or not numbers or len(numbers) > 1:
        return None
    axis, measure = labels[0], _field(numbers[0], "quantitative")
    color = _field(labels[1], kinds[labels[1]]) if len(labels) == 2 else None
    if kinds[axis] == "temporal" or _is_years(result, axis):
        return _chart("line", _field(axis, "temporal"), measure, color)
    if len(result.rows) > MOST_BARS:
        return None
    x: dict[str, Any] = {**_field(axis, "nominal"), "sort": None if result.ordered else "-y"}
    return _chart("bar", x, measure, color)


def _kind(cells: list[Any]) -> str:
    known = [cell for cell in cells if cell is not None]
    if known and all(isinstance(cell, str) and _DATE.match(cell) for cell in known):
        return "temporal"
    if known and all(isinstance(cell, int | float) for cell in known):
        years = all(isinstance(cell, int) and _YEAR.match(str(cell)) for cell in known)
        return "ordinal" if years and len(set(known)) == len(known) else "quantitative"
    return "nominal"


def _is_years(result: ResultTable, name: str) -> bool:
    position = result.columns.index(name)
    cells = [row[position] for row in result.rows]
    return all(_YEAR.match(str(cell)) for cell in cells) and len(set(cells)) == len(cells)


def _field(name: str, kind: str) -> dict[str, Any]:
    # Vega-Lite reads dots and brackets in field names as paths.
    return {"field": re.sub(r"([.\[\]\\])", r"\\\1", name), "type": kind, "title": name}


def _chart(
    mark: str, x: dict[str, Any], y: dict[str, Any], color: dict[str, Any] | None = None
) -> dict[str, Any]:
    encoding = {"x": x, "y": y, **({"color": color} if color else {})}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "mark": mark,
        "encoding": encoding,
    }
