"""Wrong readings of a question: small changes to gold SQL that keep it runnable.

Each mutation is one slip a model makes (another column, another comparison, a lost filter, a lost
DISTINCT, another order). Slow forms keep the rows and cost the engine more.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

from sqlglot import exp

from services.text2sql.pisql import sql_text
from services.text2sql.pisql.objects import SchemaView

_SWAPS: dict[type[Any], type[Any]] = {
    exp.GT: exp.GTE,
    exp.GTE: exp.GT,
    exp.LT: exp.LTE,
    exp.LTE: exp.LT,
    exp.EQ: exp.NEQ,
    exp.Max: exp.Min,
    exp.Min: exp.Max,
    exp.Avg: exp.Max,
    exp.Sum: exp.Avg,
    exp.Union: exp.Intersect,
    exp.Intersect: exp.Union,
    exp.Except: exp.Intersect,
    exp.And: exp.Or,
    exp.Or: exp.And,
}


def mutations(sql: str, schema: SchemaView) -> Iterator[str]:
    """Every single-slip variant of a statement, in a fixed order."""
    tree = sql_text.parse(sql, schema.dialect)
    size = sum(1 for _ in tree.walk())
    for position in range(size):
        for change in (_swap, _column, _literal, _drop, _flip, _limit):
            copy = tree.copy()
            node = next(item for index, item in enumerate(copy.walk()) if index == position)
            if change(node, schema):
                yield str(copy.sql(dialect=schema.dialect))


def _swap(node: Any, _schema: SchemaView) -> bool:
    other = _SWAPS.get(type(node))
    in_join = isinstance(node, exp.EQ) and node.find_ancestor(exp.Join) is not None
    if other is None or in_join or node.parent is None:
        return False
    node.replace(other(**node.args))
    return True


def _column(node: Any, schema: SchemaView) -> bool:
    """Another column of the same table, where the name belongs to exactly one table."""
    if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star) or node.find_ancestor(exp.Join):
        return False
    owners = [table for table in schema.tables if table.column(node.name)]
    if len(owners) != 1:
        return False
    names = [column.name for column in owners[0].columns]
    lowered = [name.lower() for name in names]
    following = names[(lowered.index(node.name.lower()) + 1) % len(names)]
    node.set("this", exp.to_identifier(following, quoted=not following.isidentifier()))
    return len(names) > 1


def _literal(node: Any, _schema: SchemaView) -> bool:
    if not isinstance(node, exp.Literal) or node.find_ancestor(exp.Limit):
        return False
    changed = exp.Literal.string(f"{node.this}x") if node.is_string else exp.Literal.number(f"{node.this}1")
    node.replace(changed)
    return True


def _drop(node: Any, _schema: SchemaView) -> bool:
    """Lose a filter, a HAVING, or a DISTINCT."""
    if not isinstance(node, exp.Where | exp.Having | exp.Distinct) or node.parent is None:
        return False
    if isinstance(node, exp.Distinct) and node.expressions:
        node.replace(node.expressions[0])
        return True
    node.pop()
    return True


def _flip(node: Any, _schema: SchemaView) -> bool:
    if not isinstance(node, exp.Ordered):
        return False
    node.set("desc", not node.args.get("desc"))
    return True


def _limit(node: Any, _schema: SchemaView) -> bool:
    if not isinstance(node, exp.Limit) or not isinstance(node.expression, exp.Literal):
        return False
    node.set("expression", exp.Literal.number(int(node.expression.this) + 1))
    return True


def wrong_forms(
    sql: str, schema: SchemaView, differs: Callable[[str], bool], *, most: int = 8, seed: int = 0
) -> list[str]:
    """Up to `most` mutations that run and give other rows than gold, in an order fixed by `seed`."""
    options = list(dict.fromkeys(mutations(sql, schema)))
    random.Random(seed).shuffle(options)
    found = []
    for option in options:
        if differs(option):
            found.append(option)
        if len(found) == most:
            break
    return found


def broken_form(sql: str, schema: SchemaView) -> str:
    """The statement with one column misspelt, as models invent names; a lost word where it has none."""
    tree = sql_text.parse(sql, schema.dialect)
    column = next((item for item in tree.find_all(exp.Column) if item.name and item.name != "*"), None)
    if column is None:
        return sql.replace("FROM", "FORM", 1).replace("from", "form", 1)
    column.set("this", exp.to_identifier(f"{column.name}_nr"))
    return str(tree.sql(dialect=schema.dialect))


def slow_form(sql: str, schema: SchemaView, strength: int) -> str:
    """The same rows at more cost: the first table is counted against itself once per `strength`."""
    tree = sql_text.parse(sql, schema.dialect)
    select = tree if isinstance(tree, exp.Select) else tree.find(exp.Select)
    table = select.find(exp.Table) if select is not None else None
    if select is None or table is None:
        return sql
    for number in range(strength):
        one, two = f"x{number}", f"y{number}"
        select.where(
            f'(SELECT COUNT(*) FROM "{table.name}" AS {one}, "{table.name}" AS {two} '
            f"WHERE {one}.rowid + {two}.rowid > {number}) >= 0",
            dialect=schema.dialect,
            copy=False,
        )
    return str(tree.sql(dialect=schema.dialect))
