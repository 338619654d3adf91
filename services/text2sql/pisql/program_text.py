"""Reading and checking the text of a pivot program before it may run (S5's static check).

The check is a lint that spares a sandbox run and words the repair; it is no security boundary (the
sandbox is). It allows the constructs both sandboxes know and refuses the rest by name.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from services.text2sql.pisql.helpers import HELPER_NAMES
from services.text2sql.pisql.objects import SchemaView, Step
from services.text2sql.pisql.sql_text import closest

ALLOWED_IMPORTS = frozenset({"math", "re", "datetime", "decimal", "collections", "itertools", "json"})
FRAME_IMPORTS = ALLOWED_IMPORTS | {"pandas", "numpy"}
_ALLOWED_BUILTINS = frozenset(
    [
        "abs",
        "all",
        "any",
        "bool",
        "dict",
        "divmod",
        "enumerate",
        "filter",
        "float",
        "frozenset",
        "int",
        "isinstance",
        "len",
        "list",
        "map",
        "max",
        "min",
        "pow",
        "range",
        "repr",
        "reversed",
        "round",
        "set",
        "sorted",
        "str",
        "sum",
        "tuple",
        "zip",
        "None",
        "True",
        "False",
        "ValueError",
        "KeyError",
        "TypeError",
        "ZeroDivisionError",
        "Exception",
        "IndexError",
    ]
)
_DENIED_NODES: dict[type[ast.AST], str] = {
    ast.ClassDef: "class definitions",
    ast.AsyncFunctionDef: "async functions",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.With: "with blocks",
    ast.AsyncWith: "with blocks",
    ast.Global: "global",
    ast.Nonlocal: "nonlocal",
    ast.Delete: "del",
    ast.AsyncFor: "async for",
}
_STEP = re.compile(r"#\s*[Ss]tep\s+(\d{1,3})\s*[:.)-]?\s*(.*)")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a program, in words a fixer can act on."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


def read_steps(source: str) -> tuple[Step, ...]:
    """The numbered step comments; a step reaches to the line before the next one.

    Comment lines that follow a step's first line belong to its text.
    """
    lines = source.splitlines()
    starts: list[tuple[int, int, str]] = []
    for line, text in _comments(source):
        match = _STEP.match(text)
        if match:
            starts.append((line, int(match[1]), match[2].strip()))
        elif starts and _continues(lines, starts[-1][0], line):
            first, number, words = starts[-1]
            starts[-1] = (first, number, f"{words} {text.lstrip('# ').strip()}".strip())
    ends = [line - 1 for line, _, _ in starts[1:]] + [len(lines)]
    return tuple(
        Step(number, text, line, end) for (line, number, text), end in zip(starts, ends, strict=False)
    )


def _comments(source: str) -> Iterator[tuple[int, str]]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string
    except (tokenize.TokenError, IndentationError, SyntaxError):
        return


def _continues(lines: list[str], first: int, line: int) -> bool:
    return all(text.strip().startswith("#") for text in lines[first - 1 : line])


def step_of_line(steps: tuple[Step, ...], line: int) -> int:
    """The number of the step that covers a line, 0 when none does."""
    return next((step.number for step in steps if step.first_line <= line <= step.last_line), 0)


def step_lines(steps: tuple[Step, ...]) -> tuple[str, ...]:
    """Steps as `n. text`."""
    return tuple(f"{step.number}. {step.text}" for step in steps)


def tables_of(source: str) -> tuple[str, ...]:
    """Names passed to `db.table` as constants, in order of first use."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return ()
    return tuple(dict.fromkeys(name for _, name in _table_calls(tree)))


def narrowing(source: str, table: str) -> list[tuple[Any, ...]] | None:
    """The constant `where` of every `db.table` call for a table; None when one lacks it or they differ."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    found = []
    for call, name in _table_calls(tree):
        if name.lower() == table.lower():
            named = {item.arg: item.value for item in call.keywords}
            where = named.get("where", call.args[2] if len(call.args) > 2 else None)
            try:
                found.append(ast.literal_eval(where) if where is not None else None)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                return None
    first = found[0] if found else None
    if not isinstance(first, list | tuple) or any(where != first for where in found):
        return None
    return [tuple(condition) for condition in first if isinstance(condition, list | tuple)] or None


def _table_calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = node.func.value
        if node.func.attr != "table" or not isinstance(owner, ast.Name) or owner.id != "db":
            continue
        arguments = [*node.args[:1], *(item.value for item in node.keywords if item.arg == "name")]
        for argument in arguments:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield node, argument.value


def check_program(
    source: str, schema: SchemaView, *, least_steps: int = 2, frames: bool = False
) -> list[Finding]:
    """Everything that keeps `source` from being a program of the contract; empty when it is one."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0) or 0
        return [Finding(line, f"syntax error: {getattr(error, 'msg', error)}")]
    findings = [*_contract(tree), *_constructs(tree, frames), *_unknown(tree, schema)]
    steps = len(read_steps(source))
    if steps < least_steps:
        findings.append(Finding(0, f"mark at least {least_steps} steps with `# Step n:` comments"))
    return findings


def _contract(tree: ast.Module) -> Iterator[Finding]:
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    solve = next((node for node in functions if node.name == "solve"), None)
    if solve is None:
        yield Finding(0, "define one function solve(db)")
        return
    if [argument.arg for argument in solve.args.args] != ["db"]:
        yield Finding(solve.lineno, "solve takes exactly one parameter, db")
    allowed = (ast.FunctionDef, ast.Import, ast.ImportFrom)
    for node in tree.body:
        if not isinstance(node, allowed):
            yield Finding(getattr(node, "lineno", 0), "put all code inside solve(db)")
    if not any(isinstance(node, ast.Return) and node.value for node in ast.walk(solve)):
        yield Finding(solve.lineno, 'return {"columns": [...], "rows": [...], "ordered": True or False}')


def _constructs(tree: ast.Module, frames: bool) -> Iterator[Finding]:
    imports = FRAME_IMPORTS if frames else ALLOWED_IMPORTS
    bound = _bound_names(tree)
    known = bound | _ALLOWED_BUILTINS
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if type(node) in _DENIED_NODES:
            yield Finding(line, f"{_DENIED_NODES[type(node)]} is not available")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [item.name for item in node.names]
            )
            for name in names:
                if name.split(".")[0] not in imports:
                    yield Finding(line, f"import of {name} is not available")
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            yield Finding(line, f"attribute {node.attr} is not available")
        elif isinstance(node, ast.Attribute) and node.attr in ("format_map", "today", "now"):
            if not (isinstance(node.value, ast.Name) and node.value.id == "db"):
                yield Finding(line, f"{node.attr} is not available; use db.today for the date")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id not in known:
            hint = closest(node.id, [*bound, *HELPER_NAMES])
            near = f"; closest: {', '.join(hint)}" if hint else ""
            yield Finding(line, f"name {node.id} is not available{near}")


def _bound_names(tree: ast.Module) -> set[str]:
    names = {"db", *HELPER_NAMES}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
            names.update(item.arg for item in _arguments(node.args))
        elif isinstance(node, ast.Lambda):
            names.update(item.arg for item in _arguments(node.args))
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((item.asname or item.name).split(".")[0] for item in node.names)
        elif (isinstance(node, ast.ExceptHandler) and node.name) or (
            isinstance(node, ast.MatchAs | ast.MatchStar) and node.name
        ):
            names.add(node.name)
    return names


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    extra = [item for item in (arguments.vararg, arguments.kwarg) if item is not None]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *extra]


def _unknown(tree: ast.Module, schema: SchemaView) -> Iterator[Finding]:
    loaded = []
    for call, name in _table_calls(tree):
        table = schema.table(name)
        if table is None:
            hint = closest(name, [item.name for item in schema.tables])
            near = f"; closest: {', '.join(hint)}" if hint else ""
            yield Finding(call.lineno, f"no such table: {name}{near}")
            continue
        loaded.append(table)
        columns = [column.name for column in table.columns]
        for line, used in _asked_columns(call):
            if used not in columns:
                yield Finding(line, _no_column(f"{name}.{used}", used, columns))
    known = {column.name for table in loaded for column in table.columns}
    known |= {f"{name}{suffix}" for name in known for suffix in ("_right", "_right_right")}
    made = _made_keys(tree)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
            and loaded
            and node.slice.value not in known | made
        ):
            yield Finding(node.lineno, _no_column(node.slice.value, node.slice.value, sorted(known)))


def _no_column(shown: str, name: str, columns: list[str]) -> str:
    hint = closest(name, columns)
    return f"no such column: {shown}" + (f"; closest: {', '.join(hint)}" if hint else "")


def _asked_columns(call: ast.Call) -> Iterator[tuple[int, str]]:
    """Column names in the `columns` and `where` arguments of a `db.table` call."""
    named = {item.arg: item.value for item in call.keywords}
    columns = named.get("columns", call.args[1] if len(call.args) > 1 else None)
    where = named.get("where", call.args[2] if len(call.args) > 2 else None)
    if isinstance(columns, ast.List | ast.Tuple):
        for item in columns.elts:
            if isinstance(item, ast.Constant) and isinstance(item.value, str):
                yield item.lineno, item.value
    if isinstance(where, ast.List | ast.Tuple):
        for item in where.elts:
            if isinstance(item, ast.Tuple | ast.List) and item.elts:
                first = item.elts[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield first.lineno, first.value


def _made_keys(tree: ast.Module) -> set[str]:
    """Keys the program itself creates: dict displays, subscript stores, dict(...) keywords, `as_`."""
    keys: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            keys.update(
                key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
            )
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
                keys.add(node.slice.value)
        elif isinstance(node, ast.Call):
            keys.update(item.arg for item in node.keywords if item.arg)
    return keys
