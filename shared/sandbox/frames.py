"""The `frames` form: tables as pandas frames with nullable dtypes, and the helpers for frames.

Imported in the confined child only. Columns never fall back to float for a null: whole numbers
are Int64, others Float64, truth values boolean, texts string, and a mixed column object.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from shared.sandbox.contract import plain_cell


def frame(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Rows as a frame, built column by column."""
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    return pd.DataFrame(
        {
            name: pd.array(list(values), dtype=_dtype(values))
            for name, values in zip(columns, cells, strict=True)
        }
    )


def _dtype(values: Sequence[Any]) -> Any:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int}:
        small = all(-(2**63) <= value < 2**63 for value in values if value is not None)
        return "Int64" if small else object
    if kinds and kinds <= {int, float}:
        return "Float64"
    if kinds == {bool}:
        return "boolean"
    return pd.StringDtype("python") if kinds <= {str} else object


def is_null(value: Any) -> bool:
    """None, NA, NaN and NaT are all SQL's null."""
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def plain_rows(value: Any) -> Any:
    """A frame, or rows holding NumPy and pandas scalars, as rows of plain cells."""
    if isinstance(value, pd.DataFrame):
        lists = [_plain_column(value.iloc[:, position]) for position in range(value.shape[1])]
        return [list(row) for row in zip(*lists, strict=True)]
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain_row(row) for row in value]
    return value


def _plain_column(column: Any) -> list[Any]:
    return [_plain(cell) for cell in column.astype(object).tolist()]


def _plain_row(row: Any) -> Any:
    if isinstance(row, pd.Series | np.ndarray):
        row = row.tolist()
    if isinstance(row, dict):
        return {name: _plain(cell) for name, cell in row.items()}
    return [_plain(cell) for cell in row] if isinstance(row, list | tuple) else row


def _plain(cell: Any) -> Any:
    if is_null(cell):
        return None
    if isinstance(cell, np.generic):
        cell = cell.item()
    if isinstance(cell, pd.Timestamp):
        cell = cell.to_pydatetime()
    elif isinstance(cell, pd.Timedelta):
        cell = cell.to_pytimedelta()
    try:
        return plain_cell(cell)
    except TypeError:
        return cell


def group(rows: Any, keys: Any) -> Any:
    """[(key values, member frame)] in order of first appearance; nulls form one group."""
    names = [keys] if isinstance(keys, str) else list(keys)
    members: dict[Any, list[int]] = {}
    values = [_plain_column(rows[name]) for name in names]
    for position, key in enumerate(zip(*values, strict=True)):
        members.setdefault(key, []).append(position)
    return [(key, rows.iloc[positions]) for key, positions in members.items()]


def distinct(rows: Any) -> Any:
    """The frame without repeated rows; nulls are alike."""
    return rows.drop_duplicates().reset_index(drop=True)


def join(left: Any, right: Any, on: Any = (), kind: str = "inner") -> Any:
    """Two frames joined as the rows form's join does: null equals nothing."""
    if kind == "cross":
        return left.merge(right, how="cross", suffixes=("", "_right"))
    names = [on] if isinstance(on, str) else list(on)
    pairs = [(name, name) if isinstance(name, str) else (name[0], name[1]) for name in names]
    lefts, rights = [a for a, _ in pairs], [b for _, b in pairs]
    if kind in ("semi", "anti"):
        known = set(zip(*[_plain_column(right[b]) for b in rights], strict=True)) if len(right) else set()
        keys = zip(*[_plain_column(left[a]) for a in lefts], strict=True)
        found = [None not in key and key in known for key in keys]
        return left[[hit == (kind == "semi") for hit in found]].reset_index(drop=True)
    matching_left, matching_right = left.dropna(subset=lefts), right.dropna(subset=rights)
    joined = matching_left.merge(
        matching_right, how="inner", left_on=lefts, right_on=rights, suffixes=("", "_right")
    )
    parts = [joined]
    if kind in ("left", "full"):
        parts.append(join(left, right, on, "anti"))
    if kind in ("right", "full"):
        swapped = [(b, a) for a, b in pairs]
        alone = join(right, left, swapped, "anti")
        shared = {b for a, b in pairs if a == b}
        renamed = {
            name: f"{name}_right" for name in alone.columns if name in left.columns and name not in shared
        }
        parts.append(alone.rename(columns=renamed))
    if kind not in ("inner", "left", "right", "full"):
        raise ValueError(f"unknown kind of join {kind!r}")
    present = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(present, ignore_index=True).reindex(columns=joined.columns)


def helpers(namespace: dict[str, Any]) -> None:
    """Make the helpers of the rows form take frames and columns."""
    rows_group, rows_distinct, rows_join = (namespace[name] for name in ("group", "distinct", "join"))
    namespace["is_null"] = is_null
    namespace["group"] = lambda rows, keys: (group if isinstance(rows, pd.DataFrame) else rows_group)(
        rows, keys
    )
    namespace["distinct"] = lambda rows: (distinct if isinstance(rows, pd.DataFrame) else rows_distinct)(rows)
    namespace["join"] = lambda left, right, on=(), kind="inner": (
        join if isinstance(left, pd.DataFrame) else rows_join
    )(left, right, on, kind)
