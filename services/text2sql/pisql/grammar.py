"""GBNF grammars that hold a small model's output to the catalogue (llama.cpp's grammar format).

SQL is one SELECT over one table, or over tables joined along foreign keys, whose columns all belong to
the tables read, whose text literals are retrieved values and whose numbers occur in the question.
Python is a program of the contract made of the same parts. The question's cues (`cues`) leave only
readings its words allow. What the grammar cannot say (most subqueries, expressions) it forgoes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence

from services.text2sql.pisql.cues import Cues, Reach, best_reaches, mentioned_at, read_cues
from services.text2sql.pisql.objects import Column, SchemaView, Table, ValueHit

MOST_REACHES = 3
_NUMBER_WORDS = {
    word: str(number)
    for number, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
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


def literal(text: str) -> str:
    """A GBNF string literal."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def choice(options: Iterable[str]) -> str:
    """Alternatives of a rule, duplicates dropped."""
    return " | ".join(dict.fromkeys(options))


def question_numbers(text: str) -> tuple[str, ...]:
    """Numbers a question spells in digits or in words up to ten."""
    found = dict.fromkeys(re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])", text))
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in _NUMBER_WORDS and word not in ("one", "zero"):
            found[_NUMBER_WORDS[word]] = None
    return tuple(found)


def sql_name(name: str) -> str:
    """An identifier as the grammar writes it: quoted only when it must be."""
    plain = _PLAIN_NAME.match(name) and name.lower() not in _RESERVED
    return name if plain else '"' + name.replace('"', '""') + '"'


def _looks_numeric(column: Column) -> bool:
    """Text columns that store numbers, such as years."""
    samples = [sample for sample in column.samples if sample is not None]
    return bool(samples) and all(re.fullmatch(r"-?\d+(\.\d+)?", str(sample)) for sample in samples)


class _Parts:
    """What both languages say about one reach: which columns, conditions, aggregates and orders."""

    def __init__(
        self,
        reach: Reach,
        cues: Cues,
        hits: Sequence[ValueHit],
        numbers: Sequence[str],
        question: str,
    ) -> None:
        self._question = question
        self.reach = reach
        self.cues = cues
        self.numbers = numbers
        self._hits = hits
        self.visible = [(p, t, c) for p, t, c in reach.columns() if not c.sensitive]
        self.named = [item for item in self.visible if cues.weight(item[1], item[2]) >= 0.5]
        self.projected = self.named or self._telling() or self.visible
        # A count or a group speaks of rows, not of a measured column, unless one is named.
        numeric = [item for item in self.projected if item[2].is_number and not self._is_key(item)]
        self.measured = numeric or [i for i in self.visible if i[2].is_number and not self._is_key(i)]

    def _telling(self) -> list[tuple[int, Table, Column]]:
        """Where no column is named: names and titles of the tables the question names."""
        tables = {table.name: self.cues.weight(table) for table in self.reach.tables}
        most = max(tables.values())
        return [
            item
            for item in self.visible
            if tables[item[1].name] >= most and re.search(r"name|title", item[2].name, re.IGNORECASE)
        ]

    @property
    def ranks_by_column(self) -> bool:
        """Whether a superlative has a named column to speak of; else it counts rows of a group."""
        return any(item in self.named for item in self.measured) or len(self.reach.tables) == 1

    def _is_key(self, item: tuple[int, Table, Column]) -> bool:
        _, table, column = item
        joined = {name for key in self.reach.joins for name in (*key.columns, *key.referred_columns)}
        return column.name in table.primary_key or column.name in joined

    def values(self, table: Table, column: Column) -> list[ValueHit]:
        """Value hits of a column."""
        place = (table.name.lower(), column.name.lower())
        return [hit for hit in self._hits if (hit.table.lower(), hit.column.lower()) == place]

    @property
    def lists(self) -> list[list[tuple[int, Table, Column]]]:
        """Select lists: subsets of the projected columns in the order the question names them.

        The longest come first; of more than four columns only single ones and all of them.
        """
        unique = {item[2].name.lower(): item for item in reversed(self.projected)}
        ordered = sorted(unique.values(), key=lambda item: (mentioned_at(self._question, item[2]), item[0]))
        if len(ordered) > 4:
            return [ordered[:8], *([item] for item in ordered)]
        sizes = range(len(ordered), 0, -1)
        return [list(chosen) for size in sizes for chosen in itertools.combinations(ordered, size)]

    @property
    def must_filter(self) -> bool:
        """Whether a value is named word for word, or a number is compared with a named column."""
        found = (hit for _, table, column in self.visible for hit in self.values(table, column))
        if any(hit.score >= 1.0 for hit in found):
            return True
        named = any(self.cues.weight(table, column) >= 0.5 for _, table, column in self.compared())
        return named and not self.cues.superlative and not self.cues.group

    def compared(self) -> list[tuple[int, Table, Column]]:
        """Columns a number of the question may be compared with."""
        if not self.numbers:
            return []
        able = [i for i in self.visible if i[2].is_number or _looks_numeric(i[2])]
        named = [item for item in able if self.cues.weight(item[1], item[2]) >= 0.5]
        return named or [item for item in able if not self._is_key(item)]

    @property
    def directions(self) -> list[bool]:
        """Allowed directions, True for descending."""
        found = [down for down, said in ((True, self.cues.descending), (False, self.cues.ascending)) if said]
        return found or [False]

    @property
    def aggregates(self) -> tuple[str, ...]:
        """Aggregate functions the question's words allow over a measured column."""
        return self.cues.aggregates if self.measured else ()


class _SqlRules:
    """The SQL of one reach; rule names carry its number so that reaches do not mix."""

    def __init__(self, parts: _Parts, number: int) -> None:
        self._parts = parts
        self._n = number

    def _reference(self, item: tuple[int, Table, Column]) -> str:
        name = sql_name(item[2].name)
        return name if len(self._parts.reach.tables) == 1 else f"T{item[0] + 1}.{name}"

    def _source(self) -> str:
        tables = self._parts.reach.tables
        if len(tables) == 1:
            return sql_name(tables[0].name)
        text = f"{sql_name(tables[0].name)} AS T1"
        places = {table.name.lower(): number + 1 for number, table in enumerate(tables)}
        for number, key in enumerate(self._parts.reach.joins):
            left = f"T{places[key.table.lower()]}.{sql_name(key.columns[0])}"
            right = f"T{places[key.referred_table.lower()]}.{sql_name(key.referred_columns[0])}"
            table = tables[number + 1]
            text += f" JOIN {sql_name(table.name)} AS T{number + 2} ON {left} = {right}"
        return text

    def lines(self) -> list[str]:
        """The rules; `q<number>` is the statement."""
        n, parts, cues = self._n, self._parts, self._parts.cues
        lines = [
            f"c{n} ::= {choice(literal(self._reference(item)) for item in parts.projected)}",
            f"l{n} ::= {choice(literal(', '.join(map(self._reference, items))) for items in parts.lists)}",
        ]
        if parts.measured:
            lines.append(f"m{n} ::= {choice(literal(self._reference(item)) for item in parts.measured)}")
        lines.append(f"i{n} ::= {self._items()}")
        conditions = self._conditions()
        where = ""
        if conditions:
            lines.append(f"p{n} ::= {choice(conditions)}")
            where = f'" WHERE " p{n} ((" AND " | " OR ") p{n})?'
            where = where if parts.must_filter else f"({where})?"
        source = literal(f" FROM {self._source()}")
        if cues.superlative and not cues.group:
            lines.append(f"q{n} ::= {self._superlative(source, where)}")
            return lines
        if cues.group:
            lines.append(f"q{n} ::= {self._grouped(source, where)}")
            return lines
        tail = f"{where} {self._order()}"
        distinct = '("DISTINCT ")? ' if cues.distinct else ""
        lines.append(f'q{n} ::= "SELECT " {distinct}i{n} {source} {tail}')
        return lines

    def _figures(self) -> tuple[str, list[str]]:
        """(the count, the aggregates) that the cues allow."""
        n, parts, cues = self._n, self._parts, self._parts.cues
        counted = f'"count(DISTINCT " c{n} ")"' if cues.distinct and parts.named else '"count(*)"'
        return counted, [f'"{name}(" m{n} ")"' for name in parts.aggregates]

    def _items(self) -> str:
        """The select list that the cues allow."""
        counted, measures = self._figures()
        if self._parts.cues.count:
            return counted
        if measures:
            one = f"({' | '.join(measures)})"
            return f'{one} (", " {one}){{0,2}}'
        return f"l{self._n}"

    def _grouped(self, source: str, where: str) -> str:
        """A figure per value of one column; the column shown is the column grouped by."""
        counted, measures = self._figures()
        figures = f"({' | '.join([counted, *measures])})"
        having = '(" HAVING count(*) " op " " number)?' if self._parts.numbers else ""
        options = []
        for item in self._parts.projected[:6]:
            name = self._reference(item)
            head = f"({literal(name + ', ')} {figures} | {figures} {literal(', ' + name)})"
            tail = f"{source} {where} {literal(' GROUP BY ' + name)} {having} {self._order()}"
            options.append(f'"SELECT " {head} {tail}')
        return " | ".join(options)

    def _order(self) -> str:
        """ORDER BY where the question speaks of order; a superlative has its own rules."""
        n, parts, cues = self._n, self._parts, self._parts.cues
        if not cues.order or cues.superlative:
            return ""
        key = f"(c{n} | m{n})" if parts.measured else f"c{n}"
        if cues.group:
            key = f'(c{n} | "count(*)")'
        ways = choice(literal(" DESC" if down else " ASC") for down in parts.directions)
        return f'" ORDER BY " {key} ({ways}) (" LIMIT " limit)?'

    def _superlative(self, source: str, where: str) -> str:
        """Either the extreme of a column, or the extreme count of a group, or a plain MAX or MIN."""
        n, parts = self._n, self._parts
        ways = choice(literal(" DESC" if down else " ASC") for down in parts.directions)
        head = f'"SELECT " l{n}'
        ranked = f'{source} {where} " ORDER BY " m{n} ({ways}) " LIMIT " limit'
        counted = f'{source} {where} " GROUP BY " c{n} " ORDER BY count(*)" ({ways}) " LIMIT " limit'
        options = []
        if parts.measured and parts.ranks_by_column:
            options.append(f"{head} {ranked}")
            extremes = [name for name in parts.aggregates if name in ("max", "min")]
            if extremes and not parts.must_filter:
                options.append(f'"SELECT " ({choice(map(literal, extremes))}) "(" m{n} ")" {source} {where}')
        else:
            options.append(f'{head} (", count(*)")? {counted}')
        return " | ".join(options)

    def _conditions(self) -> list[str]:
        conditions = []
        signs = '(" != " | " = ")' if self._parts.cues.negation else '" = "'
        for item in self._parts.visible:
            found = self._parts.values(item[1], item[2])
            if found:
                options = choice(literal("'" + hit.value.replace("'", "''") + "'") for hit in found)
                conditions.append(f"{literal(self._reference(item))} {signs} ({options})")
        compared = self._parts.compared()
        conditions += [f'{literal(self._reference(item))} " " op " " number' for item in compared]
        return conditions


class _PythonRules:
    """The program of one reach."""

    def __init__(self, parts: _Parts, number: int) -> None:
        self._parts = parts
        self._n = number

    def _key(self, item: tuple[int, Table, Column]) -> str:
        """The column's key in the joined dicts: a clashing right name carries `_right`."""
        place, _, column = item
        name = column.name
        for number in range(place):
            names = {other.name for other in self._parts.reach.tables[number].columns}
            if name in names:
                key = self._parts.reach.joins[place - 1]
                same = key.columns[0] == key.referred_columns[0] == name
                return name if same else name + "_right"
        return name

    def _load(self) -> str:
        tables = self._parts.reach.tables
        text = f'db.table("{tables[0].name}")'
        for number, key in enumerate(self._parts.reach.joins):
            new = tables[number + 1]
            own, other = key.columns[0], key.referred_columns[0]
            pair = (other, own) if new.name.lower() == key.table.lower() else (own, other)
            text = f'join({text}, db.table("{new.name}"), [("{pair[0]}", "{pair[1]}")])'
        return text

    def lines(self) -> list[str]:
        """The rules; `s<number>` is the body of the program."""
        n, parts = self._n, self._parts
        cells = (", ".join(f'r["{self._key(item)}"]' for item in items) for items in parts.lists)
        lines = [
            f"k{n} ::= {choice(literal(self._key(item)) for item in parts.projected)}",
            f"l{n} ::= {choice(map(literal, cells))}",
        ]
        if parts.measured:
            lines.append(f"u{n} ::= {choice(literal(self._key(item)) for item in parts.measured)}")
        step = ""
        conditions = self._conditions()
        if conditions:
            lines.append(f"w{n} ::= {choice(conditions)}")
            step = (
                f'"    # Step 2: filter\\n    rows = [r for r in rows if " w{n} '
                f'((" and " | " or ") w{n})? "]\\n"'
            )
            step = step if parts.must_filter else f"({step})?"
        options = self._results()
        load = literal(f"    # Step 1: load\n    rows = {self._load()}\n")
        lines.append(f"s{n} ::= {load} {step} ({' | '.join(options)})")
        return lines

    def _results(self) -> list[str]:
        """How the program may end, by the cues."""
        n, parts, cues = self._n, self._parts, self._parts.cues
        head = '"    # Step 4: result\\n    out = '
        over_rows = [f'"sql_{name}([r[\\"" u{n} "\\"] for r in rows])"' for name in parts.aggregates]
        over_group = [f'"sql_{name}([r[\\"" u{n} "\\"] for r in g])"' for name in parts.aggregates]
        counted = [
            f'"len(group(rows, [\\"" k{n} "\\"]))"' if cues.distinct and parts.named else '"len(rows)"'
        ]
        unique = '("    out = distinct(out)\\n")?' if cues.distinct else ""
        project = f'{head}[[" l{n} "] for r in rows]\\n" {unique}'
        if cues.group:
            having = '(" if len(g) " op " " number)?' if parts.numbers else ""
            every = " | ".join(['"len(g)"', *over_group])
            totals = f"({every})"
            return [
                f'{head}[[" ("k[0], " {totals} | {totals} ", k[0]" | "k[0]") '
                f'"] for k, g in group(rows, [\\"" k{n} "\\"])" {having} "]\\n"'
            ]
        if cues.count and not cues.superlative:
            every = " | ".join(counted)
            return [f'{head}[[" ({every}) "]]\\n"']
        one = f"({' | '.join(over_rows)})"
        total = f'{head}[[" {one} (", " {one}){{0,2}} "]]\\n"'
        if over_rows and not cues.superlative:
            return [total]
        if not cues.superlative:
            return [f"{self._sort()} {project}"]
        if parts.measured and parts.ranks_by_column:
            extremes = [name for name in parts.aggregates if name in ("max", "min")]
            return [f"{self._sort()} {project}"] + ([total] if extremes and not parts.must_filter else [])
        return [self._most()]

    def _sort(self) -> str:
        n, parts, cues = self._n, self._parts, self._parts.cues
        if not cues.order:
            return ""
        key = f"u{n}" if cues.superlative and parts.measured else f"k{n}"
        ways = choice(literal('"desc"' if down else '"asc"') for down in parts.directions)
        limit = '"    rows = rows[:" limit "]\\n"'
        limit = limit if cues.superlative else f"({limit})?"
        return (
            f'"    # Step 3: sort\\n    rows = sort_rows(rows, (\\"" {key} "\\", " ({ways}) "))\\n" {limit}'
        )

    def _most(self) -> str:
        n = self._n
        ways = choice(literal(str(down)) for down in self._parts.directions)
        return (
            f'"    # Step 3: sort groups\\n    groups = sorted(group(rows, [\\"" k{n} "\\"]), '
            f'key=lambda x: len(x[1]), reverse=" ({ways}) ")\\n" '
            '"    # Step 4: result\\n    out = [[k[0]" (", len(g)")? "] for k, g in groups[:" limit "]]\\n"'
        )

    def _conditions(self) -> list[str]:
        conditions = []
        signs = '("=" | "!=")' if self._parts.cues.negation else '"="'
        for item in self._parts.visible:
            found = self._parts.values(item[1], item[2])
            if found:
                options = choice(literal(_python_text(hit.value)) for hit in found)
                head = literal(f'sql_compare(r["{self._key(item)}"], "')
                conditions.append(f'{head} {signs} "\\", " ({options}) ")"')
        for item in self._parts.compared():
            head = literal(f'sql_compare(r["{self._key(item)}"], "')
            conditions.append(f'{head} op "\\", " number ")"')
        return conditions


def _python_text(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _shared(cues: Cues, numbers: Sequence[str]) -> list[str]:
    limits = dict.fromkeys([n for n in numbers if n.isdigit() and n != "0"] or ["1"])
    lines = [f"limit ::= {choice(map(literal, ['1', *limits] if not cues.superlative else limits))}"]
    if numbers:
        lines.append(f"op ::= {choice(map(literal, cues.operators))}")
        lines.append(f"number ::= {choice(map(literal, numbers))}")
    return lines


def sql_grammar(schema: SchemaView, hits: Sequence[ValueHit], question: str) -> str:
    """A grammar for one fenced SELECT over the view."""
    cues, numbers = read_cues(question, schema, hits), question_numbers(question)
    lines: list[str] = []
    found = best_reaches(schema, cues, MOST_REACHES)
    for number, reach in enumerate(found):
        lines += _SqlRules(_Parts(reach, cues, hits, numbers, question), number).lines()
    names = choice(f"q{number}" for number in range(len(found)))
    root = f'root ::= "```sql\\n" ({names}) "\\n```"'
    return "\n".join([root, *_shared(cues, numbers), *lines]) + "\n"


def python_grammar(schema: SchemaView, hits: Sequence[ValueHit], question: str) -> str:
    """A grammar for one fenced program of the contract over the view."""
    cues, numbers = read_cues(question, schema, hits), question_numbers(question)
    lines: list[str] = []
    found = best_reaches(schema, cues, MOST_REACHES)
    for number, reach in enumerate(found):
        lines += _PythonRules(_Parts(reach, cues, hits, numbers, question), number).lines()
    names = choice(f"s{number}" for number in range(len(found)))
    ordered = "True" if cues.order and not cues.superlative else "False"
    end = literal(
        '    return {"columns": [str(i) for i in range(len(out[0]) if out else 1)], '
        f'"rows": out, "ordered": {ordered}}}\n```'
    )
    root = f'root ::= "```python\\ndef solve(db):\\n" ({names}) {end}'
    return "\n".join([root, *_shared(cues, numbers), *lines]) + "\n"
