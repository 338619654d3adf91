"""SQL's rules in Python: the helpers a pivot program may call (Pi-SQL section 4).

One source for both runners. Its text is fed to Monty and compiled in the CPython child, with
`DIALECT` replaced, so it is written in the Python both know: no classes, no generators, no `del`.
Where dialects differ the branch names them; tests/unit/sandbox compare each with the real engine.

Text collates by code point (PostgreSQL's "C"); MySQL's ignores letter case. Decimals reach a
program as floats, so rounding takes a float for the decimal it prints as, except in DuckDB, which
rounds the binary number.
"""

import math
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any

DIALECT = "sqlite"

_NULLS_FIRST = DIALECT in ("sqlite", "mysql")
_NULL_ON_ZERO = DIALECT in ("sqlite", "mysql")
_FOLDS_CASE = DIALECT == "mysql"


def is_null(value: Any) -> bool:
    """Whether a value is SQL's null."""
    return value is None


def _number(text: str) -> Any:
    """The number a text spells in full, or None."""
    body = text.strip(" \t\n\r\f\v")
    digits = body[1:] if body[:1] in ("-", "+") else body
    if digits.isdigit() and digits.isascii():
        return int(body)
    spelled = digits[:1].isdigit() or (digits[:1] == "." and digits[1:2].isdigit())
    if not spelled or "_" in digits or not digits.isascii():
        return None
    try:
        return float(body)
    except ValueError:
        return None


def _leading_number(text: str) -> Any:
    """The number a text begins with, 0 without one: SQLite and MySQL read text operands so."""
    body = text.lstrip(" \t\n\r\f\v")
    end = 0
    for size in range(min(len(body), 40), 0, -1):
        if _number(body[:size]) is not None:
            end = size
            break
    return _number(body[:end]) if end else 0


def _operand(value: Any) -> Any:
    """A value as arithmetic reads it."""
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str):
        return value
    if DIALECT in ("sqlite", "mysql"):
        return _leading_number(value)
    number = _number(value)
    if number is None:
        raise ValueError("invalid input syntax for a number: " + repr(value))
    return number


def sql_div(a: Any, b: Any) -> Any:
    """a / b: SQLite and PostgreSQL cut the quotient of integers towards zero.

    By zero it is null in SQLite and MySQL and an error in PostgreSQL; DuckDB gives infinity, which
    no result can hold, so it is an error there too.
    """
    if is_null(a) or is_null(b):
        return None
    a, b = _operand(a), _operand(b)
    if b == 0:
        if _NULL_ON_ZERO:
            return None
        raise ZeroDivisionError("division by zero")
    if DIALECT in ("sqlite", "postgres") and isinstance(a, int) and isinstance(b, int):
        quotient = abs(a) // abs(b)
        return quotient if (a >= 0) == (b >= 0) else -quotient
    return a / b


def sql_mod(a: Any, b: Any) -> Any:
    """a % b with the sign of a; SQLite cuts both to integers first."""
    if is_null(a) or is_null(b):
        return None
    a, b = _operand(a), _operand(b)
    real = isinstance(a, float) or isinstance(b, float)
    if DIALECT == "sqlite":
        a, b = int(a), int(b)
    if b == 0:
        if _NULL_ON_ZERO:
            return None
        raise ZeroDivisionError("division by zero")
    if isinstance(a, int) and isinstance(b, int):
        rest = abs(a) % abs(b)
        rest = rest if a >= 0 else -rest
        return float(rest) if real else rest
    if DIALECT == "duckdb":
        return math.fmod(a, b)
    left, right = Decimal(str(a)), Decimal(str(b))
    whole = (left / right).to_integral_value(rounding=ROUND_DOWN)
    return float(left - whole * right)


def sql_round(value: Any, digits: int = 0) -> Any:
    """Rounding half away from zero; SQLite gives a float and takes negative digits for 0."""
    if is_null(value):
        return None
    value = _operand(value)
    if DIALECT == "sqlite":
        return _round_half_up(Decimal(str(value)), max(0, min(digits, 30)))
    if isinstance(value, int):
        return value if digits >= 0 else int(_round_half_up(Decimal(value), digits))
    if DIALECT == "duckdb":
        scale = 10.0 ** abs(digits)
        scaled = abs(value * scale if digits >= 0 else value / scale)
        whole = float(math.floor(scaled))
        if scaled - whole >= 0.5:
            whole = whole + 1.0
        rounded = whole / scale if digits >= 0 else whole * scale
        return rounded if value >= 0 else -rounded
    return _round_half_up(Decimal(str(value)), digits)


def _round_half_up(value: Any, digits: int) -> float:
    """A decimal at so many digits after the point, as float."""
    if abs(value) >= 10**15:
        return float(value)
    return float(value.quantize(Decimal("1").scaleb(-digits), rounding=ROUND_HALF_UP))


def _present(values: Any) -> list[Any]:
    return [value for value in values if not is_null(value)]


def sql_sum(values: Any) -> Any:
    """Sum of what is not null; null of nothing."""
    kept = _present(values)
    if not kept:
        return None
    numbers = []
    for value in kept:
        number = _operand(value)
        # SQLite and MySQL: text that spells no whole number makes the sum a real one
        numbers.append(float(number) if isinstance(value, str) and _number(value) is None else number)
    if DIALECT == "mysql" and any(isinstance(value, str) for value in kept):
        return float(sum(numbers))
    total = sum(numbers)
    if DIALECT == "sqlite" and isinstance(total, int) and not -(2**63) <= total < 2**63:
        raise OverflowError("integer overflow")
    return total


def sql_avg(values: Any) -> Any:
    """Mean of what is not null; null of nothing."""
    kept = [_operand(value) for value in _present(values)]
    return sum(kept) / len(kept) if kept else None


def sql_count(values: Any, distinct: bool = False) -> int:
    """How many are not null, or how many different ones."""
    kept = _present(values)
    return len({_identity(value): True for value in kept}) if distinct else len(kept)


def sql_min(values: Any) -> Any:
    """Least of what is not null; null of nothing."""
    kept = _present(values)
    return min(kept, key=sort_key) if kept else None


def sql_max(values: Any) -> Any:
    """Greatest of what is not null; null of nothing."""
    kept = _present(values)
    return max(kept, key=sort_key) if kept else None


def _text(value: Any) -> str:
    """A value as LIKE reads it."""
    if isinstance(value, bool) and DIALECT in ("sqlite", "mysql"):
        return str(int(value))
    if isinstance(value, float) and DIALECT == "sqlite":
        short = f"{value:.15g}"
        if "e" in short:
            mantissa, exponent = short.split("e")
            return (mantissa if "." in mantissa else mantissa + ".0") + "e" + exponent
        return short if "." in short or "n" in short else short + ".0"
    return str(value)


def _fold(text: str, ignore_case: Any) -> str:
    if ignore_case is not None:
        return text.lower() if ignore_case else text
    if DIALECT == "sqlite":
        if text.isascii():
            return text.lower()
        return "".join([c.lower() if c.isascii() else c for c in text])
    return text.lower() if _FOLDS_CASE else text


def sql_like(value: Any, pattern: Any, escape: Any = None, ignore_case: Any = None) -> Any:
    """LIKE with % and _, three-valued; ignore_case=True is ILIKE.

    SQLite ignores ASCII case and MySQL case; PostgreSQL and MySQL escape by backslash unless told
    otherwise.
    """
    if is_null(value) or is_null(pattern):
        return None
    if escape is None:
        escape = "\\" if DIALECT in ("postgres", "mysql") else ""
    wanted = _like_tokens(_text(pattern), escape, ignore_case)
    text = _fold(_text(value), ignore_case)
    at, position, star, mark = 0, 0, -1, 0
    while at < len(text):
        token = wanted[position] if position < len(wanted) else ""
        if token == "%":
            star, mark = position, at
            position = position + 1
        elif token == "_" or token == "=" + text[at]:
            at, position = at + 1, position + 1
        elif star >= 0:
            mark = mark + 1
            at, position = mark, star + 1
        else:
            return False
    return all(token == "%" for token in wanted[position:])


def _like_tokens(pattern: str, escape: str, ignore_case: Any) -> list[str]:
    """A pattern as `%`, `_` and `=c` for a literal character c."""
    tokens = []
    escaped = False
    for character in pattern:
        if escaped:
            tokens.append("=" + _fold(character, ignore_case))
            escaped = False
        elif escape and character == escape:
            escaped = True
        elif character in ("%", "_"):
            tokens.append(character)
        else:
            tokens.append("=" + _fold(character, ignore_case))
    if escaped:
        if DIALECT != "mysql":
            return ["never"] if DIALECT == "sqlite" else _bad_pattern()
        tokens.append("=" + escape)
    return tokens


def _bad_pattern() -> list[str]:
    raise ValueError("a LIKE pattern must not end with the escape character")


def _comparable(a: Any, b: Any) -> tuple[Any, Any]:
    """Two values as a comparison of columns takes them: a text meeting a number is converted."""
    if isinstance(a, str) == isinstance(b, str):
        # In capitals, as utf8mb4_general_ci weighs them: "_" lies behind "A", not before "a".
        return (a.upper(), b.upper()) if _FOLDS_CASE and isinstance(a, str) else (a, b)
    if DIALECT == "sqlite":
        first = _number(a) if isinstance(a, str) else a
        second = _number(b) if isinstance(b, str) else b
        return (a, b) if first is None or second is None else (first, second)
    return _operand(a), _operand(b)


def sql_compare(a: Any, operator: str, b: Any) -> Any:
    """a <operator> b, three-valued: null when an operand is null. Operators: = != <> < <= > >=."""
    if operator not in ("=", "==", "!=", "<>", "<", "<=", ">", ">="):
        raise ValueError("unknown operator " + repr(operator))
    if is_null(a) or is_null(b):
        return None
    a, b = _comparable(a, b)
    if isinstance(a, str) != isinstance(b, str):
        equal, less = False, isinstance(b, str)  # SQLite: every number is below every text
    else:
        equal, less = a == b, a < b
    if operator in ("=", "=="):
        return equal
    if operator in ("!=", "<>"):
        return not equal
    if operator == "<":
        return less
    if operator == "<=":
        return less or equal
    return not less if operator == ">=" else not less and not equal


def sql_eq(a: Any, b: Any) -> Any:
    """a = b, three-valued."""
    return sql_compare(a, "=", b)


def sql_not(condition: Any) -> Any:
    """NOT, three-valued."""
    return None if is_null(condition) else not condition


def sql_and(*conditions: Any) -> Any:
    """AND, three-valued."""
    if any(not is_null(condition) and not condition for condition in conditions):
        return False
    return None if any(is_null(condition) for condition in conditions) else True


def sql_or(*conditions: Any) -> Any:
    """OR, three-valued."""
    if any(not is_null(condition) and bool(condition) for condition in conditions):
        return True
    return None if any(is_null(condition) for condition in conditions) else False


def sql_in(value: Any, values: Any) -> Any:
    """value IN (values), three-valued."""
    return sql_or(*[sql_eq(value, other) for other in values])


def sort_key(value: Any, nulls: Any = None, descending: bool = False) -> Any:
    """A key that orders any values as ORDER BY does; a tuple of keys for several columns.

    `nulls` "first" or "last" overrides the dialect. Say descending=True rather than sort with
    reverse=True: DuckDB keeps nulls last in both directions.
    """
    if is_null(value):
        if nulls in ("first", "last"):
            first = nulls == "first"
        elif DIALECT == "duckdb":
            first = False
        else:
            first = descending != _NULLS_FIRST
        return (0, 0) if first else (9, 0)
    if isinstance(value, str):
        text = value.upper() if _FOLDS_CASE else value
        if not descending:
            return (2, text)
        # code points negated; the closing 1 puts a longer text before its own beginning
        return (3, (*tuple([-ord(character) for character in text]), 1))
    return (4, -value) if descending else (1, value)


def _row_key(key: Any) -> Any:
    """The key function of one column: a name, a function of the row, or (either, "asc"/"desc")."""
    column, direction = key if isinstance(key, (tuple, list)) else (key, "asc")
    down = direction.lower() == "desc"
    if isinstance(column, str):
        return lambda row: sort_key(row[column], None, down)
    return lambda row: sort_key(column(row), None, down)


def sort_rows(rows: Any, *keys: Any) -> Any:
    """A sorted copy. A key is a column, (column, "desc"), or (function, "asc" or "desc")."""
    functions = [_row_key(key) for key in keys]
    return sorted(rows, key=lambda row: tuple([function(row) for function in functions]))


def cut(rows: Any, n: int, *keys: Any) -> Any:
    """(the first n of the sorted rows, every row tied with the last of them on the sort keys).

    The second list is empty when no row beyond the cut ties.
    """
    ordered = list(rows)
    kept = ordered[:n]
    if len(ordered) <= n or n < 1 or not keys:
        return kept, []
    functions = [_row_key(key) for key in keys]
    edge = [function(ordered[n - 1]) for function in functions]
    if [function(ordered[n]) for function in functions] != edge:
        return kept, []
    return kept, [row for row in ordered if [function(row) for function in functions] == edge]


def _identity(value: Any) -> Any:
    """What GROUP BY and DISTINCT tell values apart by."""
    if is_null(value):
        return None
    return value.lower() if _FOLDS_CASE and isinstance(value, str) else value


def distinct(rows: Any) -> Any:
    """Rows without repetition, as UNION and DISTINCT leave them; nulls are alike."""
    seen: dict[Any, Any] = {}
    for row in rows:
        cells = list(row.values()) if isinstance(row, dict) else list(row)
        seen.setdefault(tuple([_identity(cell) for cell in cells]), row)
    return list(seen.values())


def group(rows: Any, keys: Any) -> Any:
    """[(key values, member rows)] in order of first appearance; nulls form one group."""
    names = [keys] if isinstance(keys, str) else list(keys)
    groups: dict[Any, Any] = {}
    for row in rows:
        values = tuple([row[name] for name in names])
        identity = tuple([_identity(value) for value in values])
        groups.setdefault(identity, (values, []))[1].append(row)
    return list(groups.values())


def _pairs(on: Any) -> list[Any]:
    names = [on] if isinstance(on, str) else list(on)
    return [(name, name) if isinstance(name, str) else (name[0], name[1]) for name in names]


def _join_identity(value: Any) -> Any:
    """Where to look for equal values: equal ones share it, unequal ones may."""
    if isinstance(value, str):
        number = _number(value)
        return value.lower() if number is None else number
    return value


def join(left: Any, right: Any, on: Any = (), kind: str = "inner") -> Any:
    """Two lists of dicts joined on a column, columns, or [(left column, right column), ...].

    kind: inner, left, right, full, cross, semi (left rows with a match) or anti (those without).
    Null equals nothing. A right column whose name the left has is stored as name + "_right",
    except a join column of the same name.
    """
    if kind not in ("inner", "left", "right", "full", "cross", "semi", "anti"):
        raise ValueError("unknown kind of join " + repr(kind))
    pairs = [] if kind == "cross" else _pairs(on)
    shared = [b for a, b in pairs if a == b]
    left, right = list(left), list(right)
    index: dict[Any, Any] = {}
    for number, row in enumerate(right):
        values = [row[b] for _, b in pairs]
        if not any(is_null(value) for value in values):
            index.setdefault(tuple([_join_identity(value) for value in values]), []).append((number, row))
    blank_left = dict.fromkeys(left[0]) if left else {}
    blank_right = dict.fromkeys(right[0]) if right else {}
    joined = []
    used: dict[Any, Any] = {}
    for row in left:
        values = [row[a] for a, _ in pairs]
        found = []
        if not any(is_null(value) for value in values):
            for number, other in index.get(tuple([_join_identity(value) for value in values]), []):
                if all(sql_eq(row[a], other[b]) for a, b in pairs):
                    found.append((number, other))
        if kind in ("semi", "anti"):
            if bool(found) == (kind == "semi"):
                joined.append(row)
            continue
        for number, other in found:
            used[number] = True
            joined.append(_merged(row, other, shared))
        if not found and kind in ("left", "full"):
            joined.append(_merged(row, blank_right, shared))
    if kind in ("right", "full"):
        for number, other in enumerate(right):
            if number not in used:
                row = dict(blank_left)
                for name in shared:
                    row[name] = other[name]
                joined.append(_merged(row, other, shared))
    return joined


def _merged(row: Any, other: Any, shared: Any) -> Any:
    merged = dict(row)
    for name, value in other.items():
        if name not in merged:
            merged[name] = value
        elif name not in shared:
            merged[name + "_right"] = value
    return merged
