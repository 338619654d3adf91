"""A reading written out: as one SELECT, and as a program of the contract in two styles."""

from __future__ import annotations

import re
from dataclasses import replace

from services.text2sql.pisql.conditions import Condition
from services.text2sql.pisql.objects import ProgramStyle
from services.text2sql.pisql.reach import Field, Reach
from services.text2sql.pisql.readings import Figure, Reading

_PLAIN_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_RESERVED = frozenset(
    (
        "order",
        "group",
        "select",
        "from",
        "where",
        "show",
        "table",
        "index",
        "values",
        "check",
        "default",
        "key",
    )
)


def sql_name(name: str) -> str:
    """An identifier, quoted only when it must be."""
    plain = _PLAIN_NAME.match(name) and name.lower() not in _RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


# SQL


def _reference(reading: Reading, field: Field) -> str:
    name = sql_name(field.column.name)
    return name if len(reading.reach.tables) == 1 else f"T{field.place + 1}.{name}"


def _source(reading: Reading) -> str:
    tables = reading.reach.tables
    if len(tables) == 1:
        return sql_name(tables[0].name)
    text = f"{sql_name(tables[0].name)} AS T1"
    places = {table.name.lower(): number + 1 for number, table in enumerate(tables)}
    for number, key in enumerate(reading.reach.joins):
        left = f"T{places[key.table.lower()]}.{sql_name(key.columns[0])}"
        right = f"T{places[key.referred_table.lower()]}.{sql_name(key.referred_columns[0])}"
        text += f" JOIN {sql_name(tables[number + 1].name)} AS T{number + 2} ON {left} = {right}"
    return text


def _sql_figure(reading: Reading, figure: Figure) -> str:
    if figure.field is None:
        return "count(*)"
    return f"{figure.name}({'DISTINCT ' if figure.distinct else ''}{_reference(reading, figure.field)})"


def _sql_condition(reading: Reading, condition: Condition) -> str:
    name = _reference(reading, condition.field)
    if condition.average:
        table = sql_name(condition.field.table.name)
        return (
            f"{name} {condition.operator} (SELECT avg({sql_name(condition.field.column.name)}) FROM {table})"
        )
    operator = "LIKE" if condition.operator == "like" else condition.operator
    return f"{name} {operator} {_text(condition.value) if condition.is_text else condition.value}"


def sql(reading: Reading) -> str:
    """The reading as one SELECT statement."""
    listed = [_reference(reading, field) for field in reading.shown]
    listed += [_sql_figure(reading, figure) for figure in reading.figures]
    distinct = "DISTINCT " if reading.distinct and reading.shown and not reading.group else ""
    parts = [f"SELECT {distinct}{', '.join(listed)} FROM {_source(reading)}"]
    conditions = [_sql_condition(reading, item) for item in reading.conditions]
    if reading.both:
        return " INTERSECT ".join(f"{parts[0]} WHERE {condition}" for condition in conditions)
    if reading.absent is not None:
        key = reading.absent
        inner = f"SELECT {sql_name(key.columns[0])} FROM {sql_name(key.table)}"
        if reading.absent_conditions:
            alone = replace(reading, reach=Reach((reading.absent_conditions[0].field.table,)))
            inner += " WHERE " + " AND ".join(_sql_condition(alone, c) for c in reading.absent_conditions)
        conditions.append(f"{sql_name(key.referred_columns[0])} NOT IN ({inner})")
    if conditions:
        parts.append("WHERE " + (" OR " if reading.either else " AND ").join(conditions))
    if reading.group:
        parts.append(f"GROUP BY {', '.join(_reference(reading, field) for field in reading.group)}")
    if reading.having is not None:
        parts.append(f"HAVING count(*) {reading.having[0]} {reading.having[1]}")
    order = ""
    if reading.ranked is not None:
        order = _sql_figure(reading, reading.ranked)
    elif reading.order is not None:
        order = _reference(reading, reading.order)
    if order:
        parts.append(f"ORDER BY {order} {'DESC' if reading.descending else 'ASC'}")
        if reading.limit:
            parts.append(f"LIMIT {reading.limit}")
    return " ".join(parts)


# Programs


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _key(reading: Reading, field: Field) -> str:
    """The column's key in the joined dicts: a clashing right name carries `_right`."""
    name = field.column.name
    for number in range(field.place):
        names = {other.name for other in reading.reach.tables[number].columns}
        if name in names:
            key = reading.reach.joins[field.place - 1]
            same = key.columns[0] == key.referred_columns[0] == name
            return name if same else name + "_right"
    return name


def _load(reading: Reading) -> str:
    tables = reading.reach.tables
    text = f"db.table({_quoted(tables[0].name)})"
    for number, key in enumerate(reading.reach.joins):
        new = tables[number + 1]
        own, other = key.columns[0], key.referred_columns[0]
        pair = (other, own) if new.name.lower() == key.table.lower() else (own, other)
        text = f"join({text}, db.table({_quoted(new.name)}), [({_quoted(pair[0])}, {_quoted(pair[1])})])"
    if reading.absent is not None:
        key = reading.absent
        on = f"[({_quoted(key.referred_columns[0])}, {_quoted(key.columns[0])})]"
        other = f"db.table({_quoted(key.table)})"
        if reading.absent_conditions:
            alone = replace(reading, reach=Reach((reading.absent_conditions[0].field.table,)))
            tests = " and ".join(_test(alone, condition) for condition in reading.absent_conditions)
            other = f"[r for r in {other} if {tests}]"
        text = f'join({text}, {other}, {on}, "anti")'
    return text


def _cell(reading: Reading, field: Field, row: str = "r") -> str:
    return f"{row}[{_quoted(_key(reading, field))}]"


def _test(reading: Reading, condition: Condition) -> str:
    cell = _cell(reading, condition.field)
    if condition.average:
        column, table = condition.field.column.name, condition.field.table.name
        average = f"sql_avg([x[{_quoted(column)}] for x in db.table({_quoted(table)})])"
        return f'sql_compare({cell}, "{condition.operator}", {average})'
    value = _quoted(condition.value) if condition.is_text else condition.value
    if condition.operator == "like":
        return f"sql_like({cell}, {value})"
    return f'sql_compare({cell}, "{condition.operator}", {value})'


def _total(reading: Reading, figure: Figure, rows: str) -> str:
    if figure.field is None:
        return f"len({rows})"
    values = f"[{_cell(reading, figure.field)} for r in {rows}]"
    if figure.name == "count":
        return f"sql_count({values}, True)"
    return f"sql_{figure.name}({values})"


def _loaded_words(reading: Reading) -> str:
    text = " joined with ".join(table.name for table in reading.reach.tables)
    if reading.absent is None:
        return text
    words = " and ".join(map(_condition_words, reading.absent_conditions))
    return f"{text} without {reading.absent.table}" + (f" where {words}" if words else "")


def _condition_words(condition: Condition) -> str:
    value = "the average" if condition.average else condition.value
    return f"{condition.field.column.name} {condition.operator} {value}"


def _figure_words(figure: Figure) -> str:
    if figure.field is None:
        return "count of rows"
    return f"{figure.name} of {'different ' if figure.distinct else ''}{figure.field.column.name}"


class _Writer:
    """Numbered steps of a program; a comment is a word, or in `comment` style what the step does."""

    def __init__(self, style: ProgramStyle) -> None:
        self._style = style
        self.lines: list[str] = []
        self._number = 0

    def step(self, short: str, full: str, *code: str) -> None:
        self._number += 1
        words = full if self._style is ProgramStyle.COMMENT else short
        self.lines.append(f"# Step {self._number}: {words}")
        self.lines += code

    def text(self) -> str:
        return "".join(f"    {line}\n" for line in self.lines)


def steps(reading: Reading, style: ProgramStyle) -> str:
    """The indented body of the reading's program, without its closing `return`."""
    writer = _Writer(style)
    writer.step("load", f"load {_loaded_words(reading)}", f"rows = {_load(reading)}")
    if reading.both:
        return _both(reading, writer)
    if reading.conditions:
        tests = (" or " if reading.either else " and ").join(_test(reading, c) for c in reading.conditions)
        words = (" or " if reading.either else " and ").join(map(_condition_words, reading.conditions))
        writer.step("filter", f"keep rows where {words}", f"rows = [r for r in rows if {tests}]")
    if reading.group:
        _grouped(reading, writer)
    else:
        _flat(reading, writer)
    return writer.text()


def _both(reading: Reading, writer: _Writer) -> str:
    """What is shown of rows under one condition and of rows under the other."""
    cells = ", ".join(_cell(reading, field) for field in reading.shown)
    first, second = (_test(reading, condition) for condition in reading.conditions)
    words = [_condition_words(condition) for condition in reading.conditions]
    shown = ", ".join(field.column.name for field in reading.shown)
    writer.step("first", f"{shown} of rows where {words[0]}", f"one = [[{cells}] for r in rows if {first}]")
    writer.step("second", f"{shown} of rows where {words[1]}", f"two = [[{cells}] for r in rows if {second}]")
    writer.step("result", "what is in both", "out = distinct([x for x in one if x in two])")
    return writer.text()


def _flat(reading: Reading, writer: _Writer) -> None:
    if reading.order is not None:
        key, way = _quoted(_key(reading, reading.order)), "desc" if reading.descending else "asc"
        code = [f'rows = sort_rows(rows, ({key}, "{way}"))']
        words = f"sort by {reading.order.column.name} {way}"
        if reading.limit:
            code.append(f"rows = rows[:{reading.limit}]")
            words += f", keep the first {reading.limit}"
        writer.step("sort", words, *code)
    if reading.figures:
        totals = ", ".join(_total(reading, figure, "rows") for figure in reading.figures)
        writer.step("result", ", ".join(map(_figure_words, reading.figures)), f"out = [[{totals}]]")
        return
    cells = ", ".join(_cell(reading, field) for field in reading.shown)
    code = [f"out = [[{cells}] for r in rows]"]
    if reading.distinct:
        code.append("out = distinct(out)")
    shown = ", ".join(field.column.name for field in reading.shown)
    writer.step("result", ("different " if reading.distinct else "") + shown, *code)


def _grouped(reading: Reading, writer: _Writer) -> None:
    keys = ", ".join(_quoted(_key(reading, field)) for field in reading.group)
    code = [f"groups = group(rows, [{keys}])"]
    words = f"group by {', '.join(field.column.name for field in reading.group)}"
    if reading.having is not None:
        operator, number = reading.having
        code.append(f"groups = [(k, g) for k, g in groups if len(g) {_python_sign(operator)} {number}]")
        words += f", keep groups with count {operator} {number}"
    writer.step("group", words, *code)
    if reading.ranked is not None:
        cut = f"[:{reading.limit}]" if reading.limit else ""
        down = reading.descending
        total = _total(reading, reading.ranked, "x[1]")
        key = total if reading.ranked.field is None else f"sort_key({total})"
        line = f"groups = sorted(groups, key=lambda x: {key}, reverse={down}){cut}"
        words = f"sort groups by {_figure_words(reading.ranked)} {'desc' if down else 'asc'}"
        writer.step("sort", words + (f", keep the first {reading.limit}" if cut else ""), line)
    cells = [_cell(reading, field, "g[0]") for field in reading.shown]
    cells += [_total(reading, figure, "g") for figure in reading.figures]
    shown = [field.column.name for field in reading.shown] + [_figure_words(f) for f in reading.figures]
    writer.step("result", ", ".join(shown), f"out = [[{', '.join(cells)}] for k, g in groups]")


def _python_sign(operator: str) -> str:
    return "==" if operator == "=" else operator


def closed(source: str) -> str:
    """A program that ends with its result `out`, with the `return` that all of them share.

    Rows count as ordered when the program sorts them and keeps more than one.
    """
    if re.search(r"^    return ", source, re.MULTILINE):
        return source
    ordered = re.search(r"sort_rows\(|sorted\(", source) is not None and "[:1]\n" not in source
    return (
        f"{source.rstrip()}\n"
        '    return {"columns": [str(i) for i in range(len(out[0]) if out else 1)], '
        f'"rows": out, "ordered": {ordered}}}'
    )


def opened(source: str) -> str:
    """The program as a small model writes it: without the `return` that `closed` adds."""
    return re.sub(r"\n    return \{[^\n]*$", "", source.rstrip())


def program(reading: Reading, style: ProgramStyle = ProgramStyle.CODE) -> str:
    """The reading as a program that lacks its `return`."""
    return f"def solve(db):\n{steps(reading, style)}".rstrip()
