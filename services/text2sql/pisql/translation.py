"""A pivot program from SQL: the reverse of what the SQL writers do.

Approved question/SQL pairs become worked examples for the programmer this way, and the evaluation
derives correct programs from gold SQL. Covers SELECT with joins, filters, grouping, ordering, limits,
set operations, derived tables, CTEs and (correlated) subqueries; what it does not cover raises
`UntranslatableError`, never a wrong program.

Rows are dicts keyed `alias.column`; a subquery inside a condition becomes an inner function of the
outer row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlglot import exp

from services.text2sql.pisql import sql_text
from services.text2sql.pisql.errors import SqlFailedError
from services.text2sql.pisql.objects import SchemaView
from services.text2sql.pisql.translation_expressions import (
    Block,
    ExpressionTranslator,
    Scope,
    UntranslatableError,
    text_literal,
)


class _Translator(ExpressionTranslator):
    def __init__(self, schema: SchemaView, comments: bool) -> None:
        self._schema = schema
        self._comments = comments
        self._names = 0
        self._steps = 0
        self._common: dict[str, tuple[str, list[str]]] = {}

    def program(self, tree: Any) -> str:
        block = Block()
        for cte in tree.find_all(exp.CTE):
            if cte.parent is not tree.args.get("with_") and cte.parent is not tree.args.get("with"):
                raise UntranslatableError("nested WITH")
        common = tree.args.get("with_") or tree.args.get("with")
        if common is not None:
            if common.args.get("recursive"):
                raise UntranslatableError("recursive WITH")
            for cte in common.expressions:
                columns, variable = self._query(cte.this, None, 0, block)
                self._common[cte.alias.lower()] = (variable, columns)
        columns, variable = self._query(tree, None, 0, block, top=True)
        ordered = tree.args.get("order") is not None
        self._step(block, "return the result", f"{len(columns)} columns")
        ties = ', "ties": ties' if "ties" in self._made else ""
        block.add(
            f'return {{"columns": {json.dumps(columns)}, "rows": {variable}, "ordered": {ordered}{ties}}}'
        )
        return "def solve(db):\n" + "\n".join(block.lines) + "\n"

    _made: frozenset[str] = frozenset()

    def _name(self, stem: str) -> str:
        self._names += 1
        return f"{stem}{self._names}"

    def _step(self, block: Block, short: str, long: str = "") -> None:
        if block.indent > 1:
            return
        self._steps += 1
        text = f"{short}; {long}" if self._comments and long else short
        block.add(f"# Step {self._steps}: {' '.join(text.split())}")

    def _query(
        self, tree: Any, outer: Scope | None, depth: int, block: Block, top: bool = False
    ) -> tuple[list[str], str]:
        """Emit a query; (column names, variable holding a list of lists)."""
        if isinstance(tree, exp.Subquery):
            return self._query(tree.this, outer, depth, block)
        if isinstance(tree, exp.SetOperation):
            return self._set_operation(tree, outer, depth, block)
        if not isinstance(tree, exp.Select):
            raise UntranslatableError(type(tree).__name__)
        return self._select(tree, outer, depth, block, top)

    def _set_operation(
        self, tree: Any, outer: Scope | None, depth: int, block: Block
    ) -> tuple[list[str], str]:
        columns, left = self._query(tree.left, outer, depth, block)
        _, right = self._query(tree.right, outer, depth, block)
        name = self._name("combined")
        every = not tree.args.get("distinct")
        if isinstance(tree, exp.Union):
            self._step(block, "unite both results", "duplicates stay" if every else "duplicates drop out")
            both = f"{left} + {right}"
            block.add(f"{name} = {both if every else f'distinct({both})'}")
        elif every:
            raise UntranslatableError("INTERSECT ALL or EXCEPT ALL")
        else:
            kept = isinstance(tree, exp.Intersect)
            self._step(block, "keep rows that are in both" if kept else "drop rows of the second")
            block.add(f"others = set(tuple(x) for x in {right})")
            test = "in" if kept else "not in"
            block.add(f"{name} = distinct([x for x in {left} if tuple(x) {test} others])")
        if tree.args.get("order") is not None:
            keys = []
            for item in tree.args["order"].expressions:
                position = self._result_position(item.this, columns)
                keys.append((f"lambda x: x[{position}]", bool(item.args.get("desc"))))
            block.add(f"{name} = {self._sorted(name, keys)}")
        return columns, self._limited(tree, name, [], block)

    def _result_position(self, key: Any, columns: Sequence[str]) -> int:
        if isinstance(key, exp.Literal) and not key.is_string:
            return int(key.this) - 1
        names = [column.lower() for column in columns]
        if isinstance(key, exp.Column) and key.name.lower() in names:
            return names.index(key.name.lower())
        raise UntranslatableError("ORDER BY an expression of a set operation")

    def _sorted(self, rows: str, keys: Sequence[tuple[str, bool]]) -> str:
        parts = ", ".join(f'({key}, "{"desc" if down else "asc"}")' for key, down in keys)
        return f"sort_rows({rows}, {parts})"

    def _limited(self, tree: Any, name: str, keys: Sequence[tuple[str, bool]], block: Block) -> str:
        limit, offset = tree.args.get("limit"), tree.args.get("offset")
        if limit is None:
            return name
        count = self._whole(limit.expression)
        start = self._whole(offset.expression) if offset is not None else 0
        kept = self._name("kept")
        self._step(block, f"keep {count} rows" + (f" after {start}" if start else ""))
        if keys and not start and block.indent == 1:
            parts = ", ".join(f'({key}, "{"desc" if down else "asc"}")' for key, down in keys)
            block.add(f"{kept}, tied = cut({name}, {count}, {parts})")
        else:
            block.add(f"{kept} = {name}[{start}:{start + count}]")
        return kept

    @staticmethod
    def _whole(node: Any) -> int:
        if isinstance(node, exp.Literal) and not node.is_string and str(node.this).isdigit():
            return int(node.this)
        raise UntranslatableError("LIMIT that is no whole number")

    def _select(
        self, tree: Any, outer: Scope | None, depth: int, block: Block, top: bool
    ) -> tuple[list[str], str]:
        for unknown in ("windows", "laterals", "qualify", "sample", "pivots", "connect"):
            if tree.args.get(unknown):
                raise UntranslatableError(unknown)
        scope = Scope({}, depth, outer)
        rows = self._from(tree, scope, block)
        where = tree.args.get("where")
        if where is not None:
            self._step(block, f"filter {where.this.sql()}", "rows for which it is unknown drop out")
            condition = self._condition(where.this, scope, block)
            block.add(f"{rows} = [{scope.row} for {scope.row} in {rows} if {condition}]")
        items = self._items(tree, scope)
        scope.aliases = {alias.lower(): node for alias, node in items}
        group = tree.args.get("group")
        aggregated = (
            group is not None
            or any(self._has_aggregate(node) for _, node in items)
            or tree.args.get("having") is not None
        )
        if (
            aggregated
            and group is None
            and any(not self._has_aggregate(node) and node.find(exp.Column) for _, node in items)
        ):
            raise UntranslatableError("a bare column beside an aggregate of all rows")
        if aggregated:
            pairs = self._grouped(tree, group, rows, scope, block)
            loop = f"{scope.members} in {pairs}"
            scope.grouped = True
        else:
            loop = f"{scope.row} in {rows}"
        return self._project(tree, items, loop, scope, block, top)

    def _project(
        self, tree: Any, items: list[tuple[str, Any]], loop: str, scope: Scope, block: Block, top: bool
    ) -> tuple[list[str], str]:
        order = tree.args.get("order")
        columns = [alias for alias, _ in items]
        cells = ", ".join(self._value(node, scope, block) for _, node in items)
        width = len(items)
        name = self._name("rows")
        source = loop.split(" in ", 1)
        if order is None:
            self._step(block, f"project {', '.join(columns)}")
            block.add(f"{name} = [[{cells}] for {source[0]} in {source[1]}]")
            if tree.args.get("distinct"):
                block.add(f"{name} = distinct({name})")
            return columns, self._limited(tree, name, [], block)
        keys, extra = [], []
        for item in order.expressions:
            node = self._order_node(item.this, items)
            position = next((i for i, (_, n) in enumerate(items) if n == node), None)
            if position is None:
                if tree.args.get("distinct"):
                    raise UntranslatableError("DISTINCT ordered by what is not selected")
                extra.append(self._value(node, scope, block))
                position = width + len(extra) - 1
            keys.append((f"lambda x: x[{position}]", bool(item.args.get("desc"))))
            if item.args.get("nulls_first") and bool(item.args.get("desc")):
                raise UntranslatableError("NULLS FIRST on a descending key")
        self._step(
            block,
            f"project {', '.join(columns)} and sort by {', '.join(i.sql() for i in order.expressions)}",
        )
        all_cells = ", ".join([cells, *extra])
        block.add(f"{name} = [[{all_cells}] for {source[0]} in {source[1]}]")
        if tree.args.get("distinct"):
            block.add(f"{name} = distinct({name})")
        block.add(f"{name} = {self._sorted(name, keys)}")
        kept = self._limited(tree, name, keys, block)
        if top and kept != name and f"{kept}, tied = cut(" in "\n".join(block.lines):
            self._made = frozenset({"ties"})
            block.add(f"ties = [x[:{width}] for x in tied]")
        if extra:
            block.add(f"{kept} = [x[:{width}] for x in {kept}]")
        return columns, kept

    def _order_node(self, key: Any, items: Sequence[tuple[str, Any]]) -> Any:
        if isinstance(key, exp.Literal) and not key.is_string:
            return items[int(key.this) - 1][1]
        if isinstance(key, exp.Column) and not key.table:
            for alias, node in items:
                if alias.lower() == key.name.lower():
                    return node
        return key

    def _from(self, tree: Any, scope: Scope, block: Block) -> str:
        source = tree.args.get("from_") or tree.args.get("from")
        rows = self._name("data")
        if source is None:
            block.add(f"{rows} = [{{}}]")
            return rows
        first = self._source(source.this, scope, block)
        block.add(f"{rows} = {first}")
        for item in tree.args.get("joins") or ():
            self._join(item, rows, scope, block)
        return rows

    def _source(self, node: Any, scope: Scope, block: Block) -> str:
        """An expression yielding the source's rows with prefixed keys; registers the alias."""
        if isinstance(node, exp.Subquery):
            alias = node.alias or self._name("derived")
            inner = Block(indent=block.indent)
            columns, variable = self._query(node.this, scope.outer, scope.depth + 1, inner)
            block.lines.extend(inner.lines)
        elif isinstance(node, exp.Table):
            alias = node.alias or node.name
            if node.name.lower() in self._common:
                variable, columns = self._common[node.name.lower()]
            else:
                return self._table(node, alias, scope, block)
        else:
            raise UntranslatableError(type(node).__name__)
        self._register(alias, columns, scope)
        pairs = ", ".join(f"{text_literal(f'{alias}.{c}')}: x[{i}]" for i, c in enumerate(columns))
        return f"[{{{pairs}}} for x in {variable}]"

    def _table(self, node: Any, alias: str, scope: Scope, block: Block) -> str:
        table = self._schema.table(node.name)
        if table is None:
            raise UntranslatableError(f"unknown table {node.name}")
        columns = [column.name for column in table.columns]
        self._register(alias, columns, scope)
        self._step(block, f"load table {table.name}", f"columns: {', '.join(columns)}")
        pairs = ", ".join(f"{text_literal(f'{alias}.{c}')}: x[{text_literal(c)}]" for c in columns)
        return f"[{{{pairs}}} for x in db.table({text_literal(table.name)})]"

    @staticmethod
    def _register(alias: str, columns: list[str], scope: Scope) -> None:
        if alias in scope.sources:
            raise UntranslatableError(f"alias {alias} twice")
        scope.sources[alias] = columns

    def _join(self, item: Any, rows: str, scope: Scope, block: Block) -> None:
        side, kind = (item.side or "").lower(), (item.kind or "").lower()
        if item.args.get("using") or item.method or kind not in ("", "inner", "outer", "cross"):
            raise UntranslatableError("USING or NATURAL join")
        if side not in ("", "left"):
            raise UntranslatableError(f"{side} join")
        before = set(scope.sources)
        source = self._source(item.this, scope, block)
        condition = item.args.get("on")
        pairs, rest = self._equalities(condition, before, scope)
        self._step(block, f"join {item.this.alias_or_name}", condition.sql() if condition else "")
        if side == "left" and (rest or not pairs):
            raise UntranslatableError("LEFT JOIN on more than equalities")
        if pairs:
            block.add(f'{rows} = join({rows}, {source}, {pairs!r}, "{side or "inner"}")')
        else:
            block.add(f"{rows} = [{{**a, **b}} for a in {rows} for b in {source}]")
        for part in rest:
            test = self._condition(part, scope, block)
            block.add(f"{rows} = [{scope.row} for {scope.row} in {rows} if {test}]")

    def _equalities(
        self, condition: Any, before: set[str], scope: Scope
    ) -> tuple[list[tuple[str, str]], list[Any]]:
        """Split ON into (left key, right key) pairs and the remaining conditions."""
        pairs: list[tuple[str, str]] = []
        rest: list[Any] = []
        parts = (
            list(condition.flatten()) if isinstance(condition, exp.And) else [condition] if condition else []
        )
        for part in parts:
            sides = [part.this, part.expression] if isinstance(part, exp.EQ) else []
            if len(sides) == 2 and all(isinstance(side, exp.Column) for side in sides):
                places = [self._resolve(side, scope) for side in sides]
                if all(depth == scope.depth for _, _, depth in places):
                    (one, first, _), (two, second, _) = places
                    left, right = f"{one}.{first}", f"{two}.{second}"
                    if one in before and two not in before:
                        pairs.append((left, right))
                        continue
                    if two in before and one not in before:
                        pairs.append((right, left))
                        continue
            rest.append(part)
        return pairs, rest

    def _grouped(self, tree: Any, group: Any, rows: str, scope: Scope, block: Block) -> str:
        groups = self._name("groups")
        keys = list(group.expressions) if group is not None else []
        if not keys:
            self._step(block, "take all rows as one group")
            block.add(f"{groups} = [{rows}]")
        else:
            nodes = [self._group_node(key, tree, scope) for key in keys]
            self._step(block, f"group by {', '.join(key.sql() for key in keys)}", "nulls form one group")
            parts = ", ".join(self._value(node, scope, block) for node in nodes)
            block.add(f"keyed = [{{**{scope.row}, 'key': ({parts},)}} for {scope.row} in {rows}]")
            block.add(f'{groups} = [m for _, m in group(keyed, ["key"])]')
        having = tree.args.get("having")
        if having is not None:
            scope.grouped = True
            condition = self._condition(having.this, scope, block)
            scope.grouped = False
            self._step(block, f"keep groups with {having.this.sql()}")
            block.add(f"{groups} = [{scope.members} for {scope.members} in {groups} if {condition}]")
        return groups

    def _group_node(self, key: Any, tree: Any, scope: Scope) -> Any:
        if isinstance(key, exp.Literal) and not key.is_string:
            item = tree.expressions[int(key.this) - 1]
            return item.this if isinstance(item, exp.Alias) else item
        if isinstance(key, exp.Column) and not key.table and not self._is_column(key, scope):
            return scope.aliases.get(key.name.lower(), key)
        return key

    def _is_column(self, node: Any, scope: Scope) -> bool:
        wanted = node.name.lower()
        return any(wanted == c.lower() for columns in scope.sources.values() for c in columns)

    def _items(self, tree: Any, scope: Scope) -> list[tuple[str, Any]]:
        items: list[tuple[str, Any]] = []
        for position, node in enumerate(tree.expressions):
            star = isinstance(node, exp.Star) or (
                isinstance(node, exp.Column) and isinstance(node.this, exp.Star)
            )
            if star:
                owner = node.table if isinstance(node, exp.Column) else ""
                for alias, columns in scope.sources.items():
                    if not owner or owner.lower() == alias.lower():
                        items += [(name, exp.column(name, table=alias)) for name in columns]
                continue
            inner = node.this if isinstance(node, exp.Alias) else node
            items.append((node.alias_or_name or f"column{position + 1}", inner))
        return items

    @staticmethod
    def _has_aggregate(node: Any) -> bool:
        return any(
            item.find_ancestor(exp.Subquery, exp.Select) is node.find_ancestor(exp.Subquery, exp.Select)
            for item in node.find_all(exp.AggFunc)
        )

    def inner_query(self, query: Any, scope: Scope, block: Block) -> str:
        """An inner query: computed once when it stands alone, a function of the outer row otherwise."""
        name = self._name("inner")
        tree = query.this if isinstance(query, exp.Subquery) else query
        body = Block(indent=block.indent + 1)
        probe = Scope(scope.sources, scope.depth, scope.outer, aliases={}, grouped=scope.grouped)
        columns, variable = self._query(tree, probe, scope.depth + 1, body)
        assert columns
        body.add(f"return {variable}")
        reaches_out = self._reaches(tree, scope)
        parameter = scope.members if scope.grouped else scope.row
        block.add(f"def {name}({parameter if reaches_out else ''}):")
        block.lines.extend(body.lines)
        if reaches_out:
            return f"{name}({parameter})"
        block.add(f"{name}_rows = {name}()")
        return f"{name}_rows"

    def _reaches(self, tree: Any, scope: Scope) -> bool:
        """Whether any column inside names a source that only the outside has."""
        inside: dict[str, set[str]] = {}
        for node in tree.find_all(exp.Table):
            table = self._schema.table(node.name)
            names = (
                {c.name.lower() for c in table.columns}
                if table
                else {c.lower() for c in self._common.get(node.name.lower(), ("", []))[1]}
            )
            inside[(node.alias or node.name).lower()] = names
        for node in tree.find_all(exp.Subquery):
            if node.alias and isinstance(node.this, exp.Query):
                inside[node.alias.lower()] = {n.lower() for n in node.this.named_selects}
        everything = set().union(*inside.values()) if inside else set()
        made = {alias.alias.lower() for alias in tree.find_all(exp.Alias)}
        for column in tree.find_all(exp.Column):
            if isinstance(column.this, exp.Star):
                continue
            if column.table:
                if column.table.lower() not in inside:
                    return True
            elif column.name.lower() not in everything | made:
                return True
        return False


def translate(sql: str, schema: SchemaView, *, comments: bool = False) -> str:
    """A program of the contract that gives the rows of `sql`.

    `comments` adds the detail of the `comment` style to the step comments. Raises
    `UntranslatableError`.
    """
    try:
        tree = sql_text.parse(sql_text.clean(sql, schema), schema.dialect)
    except SqlFailedError as error:
        raise UntranslatableError(str(error)) from error
    return _Translator(schema, comments).program(tree)
