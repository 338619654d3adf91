"""SQL expressions and conditions as Python text, for the translation of SQL into programs.

Knows scopes and columns; how a whole query is emitted it asks of its subclass.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

from sqlglot import exp


class UntranslatableError(Exception):
    """The statement uses something a program is not derived for."""


_COMPARISONS: dict[type[Any], str] = {
    exp.EQ: "=",
    exp.NEQ: "!=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.LT: "<",
    exp.LTE: "<=",
}
_AGGREGATES: dict[type[Any], str] = {
    exp.Sum: "sql_sum",
    exp.Avg: "sql_avg",
    exp.Min: "sql_min",
    exp.Max: "sql_max",
}


def text_literal(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass(slots=True)
class Scope:
    """Names a SELECT can see: alias -> columns, its depth, the scope around it."""

    sources: dict[str, list[str]]
    depth: int
    outer: Scope | None = None
    correlated: bool = False
    aliases: dict[str, Any] = field(default_factory=dict)
    grouped: bool = False

    @property
    def row(self) -> str:
        return f"r{self.depth}" if self.depth else "r"

    @property
    def members(self) -> str:
        return f"g{self.depth}" if self.depth else "g"


@dataclass(slots=True)
class Block:
    """Lines of code at one indentation, and the steps counted so far."""

    lines: list[str] = field(default_factory=list)
    indent: int = 1

    def add(self, line: str) -> None:
        self.lines.append("    " * self.indent + line)


class ExpressionTranslator(ABC):
    """Translates expressions within a scope; inner queries go through `inner_query`."""

    @abstractmethod
    def inner_query(self, query: Any, scope: Scope, block: Block) -> str:
        """A Python expression for the rows of a query inside an expression."""

    def _resolve(self, node: Any, scope: Scope) -> tuple[str, str, int]:
        """(alias, column, depth) of a column reference; marks the scopes it reaches through."""
        level: Scope | None = scope
        passed: list[Scope] = []
        while level is not None:
            for alias, columns in level.sources.items():
                if node.table and node.table.lower() != alias.lower():
                    continue
                for name in columns:
                    if name.lower() == node.name.lower():
                        for inner in passed:
                            inner.correlated = True
                        return alias, name, level.depth
            passed.append(level)
            level = level.outer
        raise UntranslatableError(f"unknown column {node.sql()}")

    def _column(self, node: Any, scope: Scope) -> str:
        try:
            alias, name, depth = self._resolve(node, scope)
        except UntranslatableError:
            if not node.table and node.name.lower() in scope.aliases:
                target = scope.aliases[node.name.lower()]
                if target != node:
                    return self._value(target, scope, Block())
            raise
        level: Scope = scope
        while level.depth != depth and level.outer is not None:
            level = level.outer
        key = text_literal(f"{alias}.{name}")
        return f"{level.members}[0][{key}]" if level.grouped else f"{level.row}[{key}]"

    def _value(self, node: Any, scope: Scope, block: Block) -> str:
        """A Python expression for an SQL expression; bare columns of a group take its first row."""
        if isinstance(node, exp.Paren):
            return f"({self._value(node.this, scope, block)})"
        if isinstance(node, exp.Column):
            return self._column(node, scope)
        if isinstance(node, exp.Literal):
            return text_literal(node.this) if node.is_string else str(node.this)
        if isinstance(node, exp.Null):
            return "None"
        if isinstance(node, exp.Boolean):
            return "1" if node.this else "0"
        if isinstance(node, exp.Neg):
            return f"-{self._value(node.this, scope, block)}"
        if isinstance(node, exp.AggFunc):
            return self._aggregate(node, scope, block)
        if isinstance(node, exp.Subquery):
            call = self.inner_query(node.this, scope, block)
            return f"({call} or [[None]])[0][0]"
        if isinstance(node, exp.Div):
            return f"sql_div({self._pair(node, scope, block)})"
        if isinstance(node, exp.Mod):
            return f"sql_mod({self._pair(node, scope, block)})"
        if isinstance(node, exp.Add | exp.Sub | exp.Mul):
            return self._arithmetic(node, scope, block)
        if isinstance(node, exp.Predicate | exp.Not | exp.Connector | exp.Between | exp.In | exp.Is):
            return self._condition(node, scope, block, strict=True)
        return self._function(node, scope, block)

    def _pair(self, node: Any, scope: Scope, block: Block) -> str:
        return f"{self._value(node.this, scope, block)}, {self._value(node.expression, scope, block)}"

    def _arithmetic(self, node: Any, scope: Scope, block: Block) -> str:
        sign = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*"}[type(node)]
        left = self._value(node.this, scope, block)
        right = self._value(node.expression, scope, block)
        numbers = all(isinstance(part, exp.Literal) for part in (node.this, node.expression))
        plain = f"({left} {sign} {right})"
        return plain if numbers else f"(None if {left} is None or {right} is None else {plain})"

    def _aggregate(self, node: Any, scope: Scope, block: Block) -> str:
        if not scope.grouped:
            raise UntranslatableError("aggregate outside a group")
        inner = node.this
        different = isinstance(inner, exp.Distinct)
        if different:
            if len(inner.expressions) != 1:
                raise UntranslatableError("DISTINCT over several expressions")
            inner = inner.expressions[0]
        if isinstance(node, exp.Count) and (inner is None or isinstance(inner, exp.Star)):
            return f"len({scope.members})"
        scope.grouped = False
        value = self._value(inner, scope, block)
        scope.grouped = True
        values = f"[{value} for {scope.row} in {scope.members}]"
        if different:
            values = f"list(set({values}))"
        if isinstance(node, exp.Count):
            return f"sql_count({values})"
        function = _AGGREGATES.get(type(node))
        if function is None:
            raise UntranslatableError(type(node).__name__)
        return f"{function}({values})"

    def _function(self, node: Any, scope: Scope, block: Block) -> str:
        if isinstance(node, exp.Round):
            digits = node.args.get("decimals")
            rest = f", {self._value(digits, scope, block)}" if digits is not None else ""
            return f"sql_round({self._value(node.this, scope, block)}{rest})"
        if isinstance(node, exp.Lower | exp.Upper | exp.Abs | exp.Length):
            value = self._value(node.this, scope, block)
            form = {
                exp.Lower: "str({0}).lower()",
                exp.Upper: "str({0}).upper()",
                exp.Abs: "abs({0})",
                exp.Length: "len(str({0}))",
            }[type(node)]
            return f"(None if {value} is None else {form.format(value)})"
        if isinstance(node, exp.Cast):
            return self._cast(node, scope, block)
        if isinstance(node, exp.Coalesce):
            options = [self._value(item, scope, block) for item in (node.this, *node.expressions)]
            return f"next((v for v in [{', '.join(options)}] if v is not None), None)"
        if isinstance(node, exp.Nullif):
            left, right = (
                self._value(node.this, scope, block),
                self._value(node.expression, scope, block),
            )
            return f"(None if sql_eq({left}, {right}) else {left})"
        if isinstance(node, exp.Case | exp.If):
            return self._case(node, scope, block)
        raise UntranslatableError(type(node).__name__)

    def _cast(self, node: Any, scope: Scope, block: Block) -> str:
        value = self._value(node.this, scope, block)
        target = node.to.sql().upper()
        if any(word in target for word in ("FLOAT", "REAL", "DOUBLE", "DECIMAL", "NUMERIC")):
            return f"(None if {value} is None else float({value}))"
        if "INT" in target:
            return f"(None if {value} is None else int(float({value})))"
        if "TEXT" in target or "CHAR" in target:
            return f"(None if {value} is None else str({value}))"
        raise UntranslatableError(f"CAST to {target}")

    def _case(self, node: Any, scope: Scope, block: Block) -> str:
        if isinstance(node, exp.If):
            branches, default = [node], node.args.get("false")
            subject = None
        else:
            branches, default, subject = node.args["ifs"], node.args.get("default"), node.this
        text = self._value(default, scope, block) if default is not None else "None"
        for branch in reversed(branches):
            test = exp.EQ(this=subject.copy(), expression=branch.this.copy()) if subject else branch.this
            condition = self._condition(test, scope, block)
            value = self._value(branch.args["true"], scope, block)
            text = f"({value} if {condition} else {text})"
        return text

    def _condition(self, node: Any, scope: Scope, block: Block, strict: bool = False) -> str:
        """A condition; `strict` keeps three values, otherwise only truth matters."""
        if isinstance(node, exp.Paren):
            return f"({self._condition(node.this, scope, block, strict)})"
        if isinstance(node, exp.And | exp.Or):
            word = "and" if isinstance(node, exp.And) else "or"
            parts = [self._condition(part, scope, block, strict) for part in node.flatten()]
            return f"sql_{word}({', '.join(parts)})" if strict else "(" + f" {word} ".join(parts) + ")"
        if isinstance(node, exp.Not):
            return f"sql_not({self._condition(node.this, scope, block, True)})"
        if type(node) in _COMPARISONS:
            left = self._value(node.this, scope, block)
            right = self._value(node.expression, scope, block)
            return f'sql_compare({left}, "{_COMPARISONS[type(node)]}", {right})'
        if isinstance(node, exp.Between):
            value = self._value(node.this, scope, block)
            low = self._value(node.args["low"], scope, block)
            high = self._value(node.args["high"], scope, block)
            return f'sql_and(sql_compare({value}, ">=", {low}), sql_compare({value}, "<=", {high}))'
        if isinstance(node, exp.Is):
            if not isinstance(node.expression, exp.Null):
                raise UntranslatableError("IS with something that is not NULL")
            return f"({self._value(node.this, scope, block)} is None)"
        if isinstance(node, exp.In):
            return self._in(node, scope, block)
        if isinstance(node, exp.Exists):
            return f"bool({self.inner_query(node.this, scope, block)})"
        if isinstance(node, exp.Like):
            return f"sql_like({self._pair(node, scope, block)})"
        if isinstance(node, exp.Predicate):
            raise UntranslatableError(type(node).__name__)
        return self._value(node, scope, block)

    def _in(self, node: Any, scope: Scope, block: Block) -> str:
        value = self._value(node.this, scope, block)
        query = node.args.get("query")
        if query is not None:
            call = self.inner_query(query, scope, block)
            return f"sql_in({value}, [x[0] for x in {call}])"
        options = ", ".join(self._value(item, scope, block) for item in node.expressions)
        return f"sql_in({value}, [{options}])"
