"""GBNF grammars that hold a small model's output to the catalogue (llama.cpp's grammar format).

SQL is one SELECT over one table, or over tables joined along foreign keys, whose columns all belong to
the tables read, whose text literals are retrieved values and whose numbers occur in the question.
Python is a program of the contract made of the same parts. A statement the grammar allows always
passes the catalogue check; what the grammar cannot say (subqueries, expressions) it forgoes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from services.text2sql.pisql.objects import Column, ForeignKey, SchemaView, Table, ValueHit

LARGEST_ALTERNATIVES = 40
_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
        ]
    )
}
_PLAIN_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_RESERVED = frozenset(
    [
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
    ]
)


def literal(text: str) -> str:
    """A GBNF string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def choice(options: Iterable[str]) -> str:
    """Alternatives of a rule, duplicates dropped."""
    return " | ".join(dict.fromkeys(options))


def question_numbers(text: str) -> tuple[str, ...]:
    """Numbers a question spells in digits or in words up to twelve."""
    found = dict.fromkeys(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])", text))
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in _NUMBER_WORDS:
            found[_NUMBER_WORDS[word]] = None
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Reach:
    """Tables read together: each with its alias, and the joins between them."""

    tables: tuple[Table, ...]
    joins: tuple[ForeignKey, ...] = ()

    def columns(self) -> list[tuple[int, Table, Column]]:
        """(position of the table, table, column) of everything within reach."""
        return [
            (number, table, column) for number, table in enumerate(self.tables) for column in table.columns
        ]


def reaches(schema: SchemaView) -> list[Reach]:
    """Single tables, then pairs along one foreign key, then paths of two; at most 40 in all."""
    found = [Reach((table,)) for table in schema.tables]
    pairs = []
    for key in schema.foreign_keys:
        left, right = schema.table(key.table), schema.table(key.referred_table)
        if left and right and left.name != right.name and len(key.columns) == 1:
            pairs.append(Reach((left, right), (key,)))
    triples = []
    for first in pairs:
        for second in pairs:
            shared = [t for t in first.tables if t.name in {s.name for s in second.tables}]
            if first is second or len(shared) != 1 or not _after(first, second):
                continue
            new = next(t for t in second.tables if t.name != shared[0].name)
            triples.append(Reach((*first.tables, new), (*first.joins, *second.joins)))
    return (found + pairs + triples)[:LARGEST_ALTERNATIVES]


def _after(first: Reach, second: Reach) -> bool:
    names = [tuple(table.name for table in reach.tables) for reach in (first, second)]
    return names[0] < names[1]


def _hits_of(hits: Sequence[ValueHit], table: Table, column: Column) -> list[str]:
    return [
        hit.value
        for hit in hits
        if hit.table.lower() == table.name.lower() and hit.column.lower() == column.name.lower()
    ]


def sql_name(name: str) -> str:
    """An identifier as the grammar writes it: quoted only when it must be."""
    plain = _PLAIN_NAME.match(name) and name.lower() not in _RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'


def _sql_text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


class _SqlRules:
    """The rules of one reach; rule names carry its number so that reaches do not mix."""

    def __init__(self, reach: Reach, number: int, hits: Sequence[ValueHit], numbers: Sequence[str]) -> None:
        self._reach = reach
        self._n = number
        self._hits = hits
        self._numbers = numbers

    def _reference(self, position: int, column: Column) -> str:
        name = sql_name(column.name)
        return name if len(self._reach.tables) == 1 else f"T{position + 1}.{name}"

    def _source(self) -> str:
        tables = self._reach.tables
        if len(tables) == 1:
            return sql_name(tables[0].name)
        text = f"{sql_name(tables[0].name)} AS T1"
        places = {table.name.lower(): number + 1 for number, table in enumerate(tables)}
        for number, key in enumerate(self._reach.joins):
            left = f"T{places[key.table.lower()]}.{sql_name(key.columns[0])}"
            right = f"T{places[key.referred_table.lower()]}.{sql_name(key.referred_columns[0])}"
            table = tables[number + 1]
            text += f" JOIN {sql_name(table.name)} AS T{number + 2} ON {left} = {right}"
        return text

    def lines(self) -> list[str]:
        """The rules; `q<number>` is the statement."""
        n, reach = self._n, self._reach
        columns = [(self._reference(p, c), t, c) for p, t, c in reach.columns() if not c.sensitive]
        numeric = [name for name, _, column in columns if column.is_number]
        lines = [f"c{n} ::= {choice(literal(name) for name, _, _ in columns)}"]
        items = [f"c{n}", '"count(*)"', f'"count(DISTINCT " c{n} ")"']
        if numeric:
            lines.append(f"m{n} ::= {choice(map(literal, numeric))}")
            items.append(f'("avg" | "sum" | "max" | "min") "(" m{n} ")"')
        lines.append(f"i{n} ::= {' | '.join(items)}")
        conditions = self._conditions(columns)
        where = ""
        if conditions:
            lines.append(f"p{n} ::= {choice(conditions)}")
            where = f'(" WHERE " p{n} ((" AND " | " OR ") p{n})?)?'
        having = '(" HAVING count(*) " op " " number)?' if self._numbers else ""
        order_key = f'(c{n} | "count(*)"' + (f' | ("sum" | "avg") "(" m{n} ")"' if numeric else "") + ")"
        lines.append(
            f'q{n} ::= "SELECT " ("DISTINCT ")? i{n} (", " i{n}){{0,3}} {literal(" FROM " + self._source())} '
            f'{where} (" GROUP BY " c{n} {having})? '
            f'(" ORDER BY " {order_key} (" ASC" | " DESC") (" LIMIT " limit)?)?'
        )
        return lines

    def _conditions(self, columns: Sequence[tuple[str, Table, Column]]) -> list[str]:
        conditions = []
        for name, table, column in columns:
            values = _hits_of(self._hits, table, column)
            if values:
                options = choice(literal(_sql_text(value)) for value in values)
                conditions.append(f'{literal(name)} (" = " | " != ") ({options})')
            if self._numbers and (column.is_number or _looks_numeric(column)):
                conditions.append(f'{literal(name)} " " op " " number')
        return conditions


def _looks_numeric(column: Column) -> bool:
    """Text columns that store numbers, such as years."""
    samples = [sample for sample in column.samples if sample is not None]
    return bool(samples) and all(re.fullmatch(r"-?\d+(\.\d+)?", str(sample)) for sample in samples)


def sql_grammar(schema: SchemaView, hits: Sequence[ValueHit], question: str) -> str:
    """A grammar for one fenced SELECT over the view."""
    numbers = question_numbers(question)
    lines: list[str] = []
    names = []
    for number, reach in enumerate(reaches(schema)):
        names.append(f"q{number}")
        lines += _SqlRules(reach, number, hits, numbers).lines()
    limits = dict.fromkeys(["1", *(n for n in numbers if n.isdigit() and n != "0")])
    shared = [
        f'root ::= "```sql\\n" ({choice(names)}) "\\n```"',
        f"limit ::= {choice(map(literal, limits))}",
    ]
    if numbers:
        shared += [
            'op ::= ">=" | "<=" | ">" | "<" | "=" | "!="',
            f"number ::= {choice(map(literal, numbers))}",
        ]
    return "\n".join(shared + lines) + "\n"


class _PythonRules:
    """The program rules of one reach."""

    def __init__(self, reach: Reach, number: int, hits: Sequence[ValueHit], numbers: Sequence[str]) -> None:
        self._reach = reach
        self._n = number
        self._hits = hits
        self._numbers = numbers

    def _keys(self) -> list[tuple[str, Table, Column]]:
        """Column keys of the joined dicts: a clashing right name carries `_right`, a shared one none."""
        keys: dict[str, tuple[str, Table, Column]] = {}
        for number, table in enumerate(self._reach.tables):
            shared = set()
            if number:
                key = self._reach.joins[number - 1]
                if key.columns[0] == key.referred_columns[0]:
                    shared.add(key.columns[0])
            for column in table.columns:
                name = column.name
                if name in keys:
                    if name in shared:
                        continue
                    name += "_right"
                keys.setdefault(name, (name, table, column))
        return list(keys.values())

    def _load(self) -> str:
        tables = self._reach.tables
        text = f'db.table("{tables[0].name}")'
        for number, key in enumerate(self._reach.joins):
            new = tables[number + 1]
            own, other = key.columns[0], key.referred_columns[0]
            pair = (other, own) if new.name.lower() == key.table.lower() else (own, other)
            text = f'join({text}, db.table("{new.name}"), [("{pair[0]}", "{pair[1]}")])'
        return text

    def lines(self) -> list[str]:
        """The rules; `s<number>` is the body of the program."""
        n = self._n
        keys = [(name, t, c) for name, t, c in self._keys() if not c.sensitive]
        numeric = [name for name, _, column in keys if column.is_number]
        lines = [f"k{n} ::= {choice(literal(name) for name, _, _ in keys)}"]
        conditions = self._conditions(keys)
        filter_step = ""
        if conditions:
            lines.append(f"w{n} ::= {choice(conditions)}")
            filter_step = (
                f'("    # Step 2: filter\\n    rows = [r for r in rows if " w{n} '
                f'((" and " | " or ") w{n})? "]\\n")?'
            )
        aggregates = ['"len(rows)"', f'"len(group(rows, [\\"" k{n} "\\"]))"']
        grouped = ['"len(g)"']
        if numeric:
            lines.append(f"u{n} ::= {choice(map(literal, numeric))}")
            aggregates.append(
                f'("sql_avg" | "sql_sum" | "sql_max" | "sql_min") "([r[\\"" u{n} "\\"] for r in rows])"'
            )
            grouped.append(
                f'("sql_avg" | "sql_sum" | "sql_max" | "sql_min") "([r[\\"" u{n} "\\"] for r in g])"'
            )
        lines.append(f"a{n} ::= {' | '.join(aggregates)}")
        lines.append(f"g{n} ::= {' | '.join(grouped)}")
        cell = f'"r[\\"" k{n} "\\"]"'
        project = (
            f'"    # Step 4: result\\n    out = [[" {cell} (", " {cell}){{0,3}} "] for r in rows]\\n" '
            '("    out = distinct(out)\\n")?'
        )
        total = f'"    # Step 4: result\\n    out = [[" a{n} (", " a{n}){{0,2}} "]]\\n"'
        having = '(" if len(g) " op " " number)?' if self._numbers else ""
        each = (
            f'"    # Step 4: result\\n    out = [[" ("k[0], " g{n} | g{n} ", k[0]" | "k[0]") '
            f'"] for k, g in group(rows, [\\"" k{n} "\\"])" {having} "]\\n"'
        )
        sort = (
            f'("    # Step 3: sort\\n    rows = sort_rows(rows, (\\"" k{n} "\\", " direction "))\\n" '
            f'("    rows = rows[:" limit "]\\n")?)?'
        )
        most = (
            f'"    # Step 3: sort groups\\n    groups = sorted(group(rows, [\\"" k{n} "\\"]), '
            'key=lambda x: len(x[1]), reverse=" ("True" | "False") ")\\n" '
            '"    # Step 4: result\\n    out = [[k[0]" (", len(g)")? "] for k, g in groups" '
            '("[:" limit "]")? "]\\n"'
        )
        load = literal(f"    # Step 1: load\n    rows = {self._load()}\n")
        lines.append(f"s{n} ::= {load} {filter_step} ({sort} {project} | {total} | {each} | {most})")
        return lines

    def _conditions(self, keys: Sequence[tuple[str, Table, Column]]) -> list[str]:
        conditions = []
        for name, table, column in keys:
            head = f'sql_compare(r["{name}"], "'
            values = _hits_of(self._hits, table, column)
            if values:
                options = choice(literal(_python_text(value)) for value in values)
                conditions.append(f'{literal(head)} ("=" | "!=") "\\", " ({options}) ")"')
            if self._numbers and (column.is_number or _looks_numeric(column)):
                conditions.append(f'{literal(head)} op "\\", " number ")"')
        return conditions


def _python_text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def python_grammar(schema: SchemaView, hits: Sequence[ValueHit], question: str) -> str:
    """A grammar for one fenced program of the contract over the view."""
    numbers = question_numbers(question)
    lines: list[str] = []
    names = []
    for number, reach in enumerate(reaches(schema)):
        names.append(f"s{number}")
        lines += _PythonRules(reach, number, hits, numbers).lines()
    limits = dict.fromkeys(["1", *(n for n in numbers if n.isdigit() and n != "0")])
    shared = [
        f'root ::= "```python\\ndef solve(db):\\n" ({choice(names)}) '
        '"    return {\\"columns\\": [str(i) for i in range(len(out[0]) if out else 1)], '
        '\\"rows\\": out, \\"ordered\\": " ("False" | "True") "}\\n```"',
        f"limit ::= {choice(map(literal, limits))}",
        'direction ::= "\\"asc\\"" | "\\"desc\\""',
    ]
    if numbers:
        shared += [
            'op ::= ">=" | "<=" | ">" | "<" | "=" | "!="',
            f"number ::= {choice(map(literal, numbers))}",
        ]
    return "\n".join(shared + lines) + "\n"
