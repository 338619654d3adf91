"""`db.table(name, columns, where)`: a snapshot's rows, narrowed without SQL.

Runs beside the program in the CPython child and in the parent for Monty; both hand over arguments
that a stranger chose, so every one is checked by type before it is used.
"""

import difflib
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import CodeType
from typing import Any, get_args

from shared.sandbox.contract import Dialect, Limits, Table
from shared.sandbox.result import ResultTooBig

_SOURCE = Path(__file__).with_name("helpers.py")
_CONDITIONS = 100
_COMPARISONS = ("=", "==", "!=", "<>", "<", "<=", ">", ">=")
_OPERATORS = (*_COMPARISONS, "in", "not in", "like", "not like", "is null", "is not null")
HELPER_NAMES = (
    *("sql_div", "sql_mod", "sql_round", "sql_sum", "sql_avg", "sql_count", "sql_min", "sql_max"),
    *("sql_like", "sql_compare", "sql_eq", "sql_not", "sql_and", "sql_or", "sql_in"),
    *("sort_key", "sort_rows", "cut", "distinct", "group", "join"),
)


@functools.cache
def helper_source(dialect: str) -> str:
    """The text of the helpers with the dialect's rules, the same for both runners."""
    text = _SOURCE.read_text(encoding="utf-8")
    return text.replace('DIALECT = "sqlite"', f"DIALECT = {dialect!r}", 1)


@functools.cache
def _helper_code(dialect: str) -> CodeType:
    return compile(helper_source(dialect), str(_SOURCE), "exec")


def helper_namespace(dialect: str) -> dict[str, Any]:
    """A fresh namespace holding the helpers of one dialect."""
    namespace: dict[str, Any] = {"__name__": "helpers"}
    exec(_helper_code(dialect), namespace)
    return namespace


@functools.cache
def _shared_helpers(dialect: str) -> Mapping[str, Any]:
    return helper_namespace(dialect)


def warm_up() -> None:
    """Read and compile the helpers of every dialect, before files can no longer be opened."""
    for dialect in get_args(Dialect):
        _shared_helpers(dialect)


def select(
    tables: Mapping[str, Table],
    name: Any,
    columns: Any,
    where: Any,
    *,
    dialect: str,
    limits: Limits,
) -> tuple[list[str], list[Sequence[Any]]]:
    """The named columns of the rows that meet every condition.

    `where` is a list of (column, operator, literal); a comparison with null never holds. Raises
    LookupError (unknown name, with the closest one), ValueError (a condition that makes no
    sense) and ResultTooBig.
    """
    table = tables[_resolve(name, tables, "table")]
    if table.oversized:
        raise ResultTooBig(f"table {name} is too large to be read by a program")
    rows: list[Sequence[Any]] = list(table.rows)
    if where is not None:
        for test in _conditions(where, table, _shared_helpers(dialect)):
            rows = [row for row in rows if test(row)]
    wanted = list(table.columns)
    if columns is not None:
        if not isinstance(columns, list | tuple):
            raise ValueError("columns must be a list of column names")
        wanted = [_resolve(column, table.columns, "column") for column in columns]
        positions = [table.columns.index(column) for column in wanted]
        rows = [tuple([row[position] for position in positions]) for row in rows]
    _check_size(rows, limits, str(name))
    return wanted, rows


def _resolve(name: Any, known: Mapping[str, Any] | Sequence[str], kind: str) -> str:
    """The known name meant by `name`, letter case aside."""
    if not isinstance(name, str):
        raise LookupError(f"a {kind} name must be text, not {type(name).__name__}")
    if name in known:
        return name
    folded = [other for other in known if other.lower() == name.lower()]
    if len(folded) == 1:
        return folded[0]
    near = difflib.get_close_matches(name[:100], list(known), n=1)
    raise LookupError(f"no {kind} {name[:100]!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def _conditions(
    where: Any, table: Table, helpers: Mapping[str, Any]
) -> list[Callable[[Sequence[Any]], bool]]:
    if not isinstance(where, list | tuple) or len(where) > _CONDITIONS:
        raise ValueError(f"where must be a list of at most {_CONDITIONS} (column, operator, literal)")
    tests = []
    for condition in where:
        if not isinstance(condition, list | tuple) or len(condition) not in (2, 3):
            raise ValueError(f"a condition is (column, operator, literal), not {type(condition).__name__}")
        column, operator = condition[0], condition[1]
        position = table.columns.index(_resolve(column, table.columns, "column"))
        literal = condition[2] if len(condition) == 3 else None
        tests.append(_condition(position, operator, literal, helpers))
    return tests


def _condition(
    position: int, operator: Any, literal: Any, helpers: Mapping[str, Any]
) -> Callable[[Sequence[Any]], bool]:
    spelled = " ".join(str(operator)[:20].lower().replace("_", " ").split())
    if spelled not in _OPERATORS:
        raise ValueError(f"unknown operator {spelled!r}; one of {', '.join(_OPERATORS)}")
    if spelled in ("is null", "is not null"):
        return lambda row: (row[position] is None) == (spelled == "is null")
    listed = spelled in ("in", "not in")
    if listed != isinstance(literal, list | tuple | set | frozenset):
        raise ValueError(f"operator {spelled!r} takes {'a list' if listed else 'one literal'}")
    for value in literal if listed else (literal,):
        if value is not None and not isinstance(value, str | int | float):
            raise ValueError(f"a literal is a number, a text or None, not {type(value).__name__}")
    if spelled in ("like", "not like"):
        wanted = spelled == "like"
        return lambda row: helpers["sql_like"](row[position], literal) is wanted
    if listed:
        wanted = spelled == "in"
        return lambda row: helpers["sql_in"](row[position], literal) is wanted
    return lambda row: helpers["sql_compare"](row[position], spelled, literal) is True


def _check_size(rows: list[Sequence[Any]], limits: Limits, name: str) -> None:
    """Refuses what is too much to hand over; text is sized on a sample of rows."""
    if len(rows) > limits.table_rows:
        raise ResultTooBig(f"table {name} has {len(rows)} rows, more than {limits.table_rows}")
    sample = rows[:: max(1, len(rows) // 500)]
    if sample:
        size = sum(len(cell) if isinstance(cell, str) else 16 for row in sample for cell in row)
        if size / len(sample) * len(rows) > limits.table_bytes:
            raise ResultTooBig(f"table {name} is larger than {limits.table_bytes >> 20} MiB")
