"""What a program returned, as canonical rows: the contract of `solve`, the caps, the digest.

Used on both sides of the edge: beside the program in the CPython child, and in the parent for
Monty. Looks at every value by its exact type and never calls a method of an unknown object.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from shared.sandbox.contract import Cell, Limits, plain_cell

_COLUMNS = 1_000
_INTEGER = 10**40
_MODULUS = 1 << 128


class ContractViolation(Exception):
    """`solve` returned something else than the contract asks for."""


class ResultTooBig(Exception):
    """More than is worth carrying out of the sandbox."""


def row_digest(rows: Iterable[Sequence[Cell]]) -> str:
    """An order-free digest of rows, 32 hex digits; numbers count by 6 significant digits.

    The sum, modulo 2**128, of the BLAKE2b of every row, so equal multisets of rows have equal
    digests whatever their order (Pi-SQL section 4).
    """
    total = 0
    for row in rows:
        text = "\x1f".join([_digest_text(cell) for cell in row])
        code = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        total += int.from_bytes(code, "big")
    return f"{total % _MODULUS:032x}"


def _digest_text(cell: Cell) -> str:
    if cell is None:
        return "n"
    if isinstance(cell, str):
        return "s" + cell
    try:
        number = float(cell) + 0.0  # no negative zero
    except OverflowError:
        return f"d{cell}"
    return f"d{number:.6g}"


def canonical_result(value: Any, limits: Limits) -> dict[str, Any]:
    """The payload of a result: columns, rows (cut at the caps), row_count, digest, ordered, ties.

    `value` is what `solve` returned, with rows as lists, tuples or dicts. Raises
    ContractViolation or ResultTooBig.
    """
    if type(value) is not dict:
        raise ContractViolation("solve must return a dict with columns, rows and ordered")
    names = list(value)
    if any(type(name) is not str for name in names):
        raise ContractViolation("the keys of the result must be text")
    unknown = sorted(set(names) - {"columns", "rows", "ordered", "ties"})
    missing = sorted({"columns", "rows"} - set(names))
    if unknown or missing:
        raise ContractViolation(
            f"the result lacks {missing}" if missing else f"the result has unknown keys {unknown}"
        )
    columns = _columns(value["columns"])
    ordered = value.get("ordered", False)
    if type(ordered) is not bool:
        raise ContractViolation("ordered must be True or False")
    rows = _rows(value["rows"], columns, "rows", limits)
    ties = _rows(value.get("ties") or [], columns, "ties", limits)
    kept = _fitting(rows, limits)
    if rows and not kept:
        raise ResultTooBig(f"one row is larger than {limits.result_bytes} bytes")
    return {
        "columns": columns,
        "rows": kept,
        "row_count": len(rows),
        "digest": row_digest(rows),
        "ordered": ordered,
        "ties": _fitting(ties, limits),
    }


def _columns(value: Any) -> list[str]:
    if type(value) not in (list, tuple) or not 0 < len(value) <= _COLUMNS:
        raise ContractViolation(f"columns must be a list of 1 to {_COLUMNS} names")
    if any(type(name) is not str or len(name) > 1_000 for name in value):
        raise ContractViolation("columns must be texts")
    return list(value)


def _rows(value: Any, columns: list[str], key: str, limits: Limits) -> list[list[Cell]]:
    if type(value) not in (list, tuple):
        raise ContractViolation(f"{key} must be a list of rows, not {type(value).__name__}")
    if len(value) > limits.table_rows:
        raise ResultTooBig(f"{len(value)} rows; the most that is compared is {limits.table_rows}")
    width = len(columns)
    rows: list[list[Cell]] = []
    for number, row in enumerate(value):
        if type(row) is dict:
            if set(row) != set(columns):
                raise ContractViolation(f"row {number} of {key} does not have exactly the columns")
            row = [row[name] for name in columns]
        elif type(row) not in (list, tuple):
            raise ContractViolation(f"row {number} of {key} is a {type(row).__name__}, not a list")
        if len(row) != width:
            raise ContractViolation(f"row {number} of {key} has {len(row)} cells for {width} columns")
        rows.append([_cell(cell, number, limits) for cell in row])
    return rows


def _cell(cell: Any, number: int, limits: Limits) -> Cell:
    kind = type(cell)
    if cell is None or kind is bool:
        return cell  # type: ignore[no-any-return]
    if kind is int:
        if not -_INTEGER < cell < _INTEGER:
            raise ContractViolation(f"an integer in row {number} has more than 40 digits")
        return cell  # type: ignore[no-any-return]
    if kind is str:
        if len(cell) > limits.result_bytes:
            raise ResultTooBig(f"a text in row {number} has {len(cell)} characters")
        return cell  # type: ignore[no-any-return]
    try:
        plain = plain_cell(cell)
    except TypeError:
        raise ContractViolation(
            f"a cell in row {number} is a {kind.__name__}; cells are numbers, texts or None"
        ) from None
    if isinstance(plain, float) and math.isinf(plain):
        raise ContractViolation(f"a cell in row {number} is infinite")
    return plain


def _fitting(rows: list[list[Cell]], limits: Limits) -> list[list[Cell]]:
    """The first rows, as many as the row and byte caps allow."""
    kept: list[list[Cell]] = []
    room = limits.result_bytes
    for row in rows[: limits.result_rows]:
        room -= len(json.dumps(row)) + 1
        if room < 0:
            break
        kept.append(row)
    return kept
