"""What can be known of an SQL statement without running it: clean text, normal form, names, order.

Everything is read from sqlglot's tree in the target dialect. Safety is not judged here: that is the
gate's work.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify

from services.text2sql.dialects import READERS
from services.text2sql.pisql.errors import SqlFailedError
from services.text2sql.pisql.objects import SchemaView

_ALIASES = {"postgresql": "postgres", "mariadb": "mysql", "sqlite3": "sqlite"}
_FOLDING = {"sqlite", "mysql", "duckdb", "postgres"}


def dialect_name(name: str) -> str:
    """The sqlglot name of a dialect (`postgresql` and `mariadb` have their own spellings)."""
    lowered = name.lower()
    return _ALIASES.get(lowered, lowered)


@functools.lru_cache(maxsize=2_048)
def _parsed(sql: str, dialect: str) -> Any:
    try:
        statements = [
            item for item in sqlglot.parse(sql, dialect=READERS.get(dialect, dialect)) if item is not None
        ]
    except (SqlglotError, RecursionError, ValueError) as error:
        raise SqlFailedError(_first_line(error)) from error
    if len(statements) != 1:
        raise SqlFailedError("write exactly one statement")
    return statements[0]


def _first_line(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text.splitlines()[0].replace("\x1b[4m", "").replace("\x1b[0m", "")[:300]


def read_tree(sql: str, dialect: str) -> Any:
    """The cached tree of one statement, to be read only; raises `SqlFailedError` as `parse` does."""
    return _parsed(sql.strip().rstrip(";").strip(), dialect_name(dialect))


def parse(sql: str, dialect: str) -> Any:
    """A tree of one statement that the caller may change.

    Raises `SqlFailedError` for no statement, several, or bad syntax.
    """
    return read_tree(sql, dialect).copy()


def clean(sql: str, schema: SchemaView) -> str:
    """The statement as it will run: one statement, no comments, no trailing semicolon.

    Where the dialect lets an unknown double-quoted name mean text (SQLite), it becomes a literal, so
    that name checks and other engines read it as it would run.
    """
    dialect = dialect_name(schema.dialect)
    tree = parse(sql, dialect)
    if dialect == "sqlite":
        names = known_names(tree, schema)
        for column in list(tree.find_all(exp.Column)):
            bare = column.this
            if (
                isinstance(bare, exp.Identifier)
                and bare.quoted
                and not column.table
                and bare.name.lower() not in names
            ):
                column.replace(exp.Literal.string(bare.name))
    return str(tree.sql(dialect=dialect, comments=False))


def normal_form(sql: str, schema: SchemaView) -> str:
    """A text equal for statements that differ only in spelling: used to drop duplicates."""
    dialect = dialect_name(schema.dialect)
    tree = parse(sql, dialect)
    catalogue: dict[str, object] = {
        table.name.lower(): {column.name.lower(): column.type or "TEXT" for column in table.columns}
        for table in schema.tables
    }
    if dialect in _FOLDING:
        for identifier in tree.find_all(exp.Identifier):
            identifier.set("this", identifier.name.lower())
            identifier.set("quoted", False)
    # A statement that cannot be qualified is still compared by its own text.
    with contextlib.suppress(SqlglotError, RecursionError, KeyError, ValueError, AttributeError):
        tree = qualify(
            tree,
            dialect=dialect,
            schema=catalogue,
            validate_qualify_columns=False,
            expand_stars=True,
            quote_identifiers=False,
        )
    return str(tree.sql(dialect=dialect, comments=False, normalize=True))


@dataclass(frozen=True, slots=True)
class UnknownName:
    """A name the catalogue does not have, with the closest names it has."""

    kind: str
    name: str
    closest: tuple[str, ...]

    def __str__(self) -> str:
        hint = f"; closest: {', '.join(self.closest)}" if self.closest else ""
        return f"no such {self.kind}: {self.name}{hint}"


def known_names(tree: Any, schema: SchemaView) -> set[str]:
    """Every column name, alias and generated name a reference in the statement may mean, lowered."""
    names = {column.name.lower() for _, column in schema.columns()}
    names |= {alias.alias.lower() for alias in tree.find_all(exp.Alias) if alias.alias}
    for alias in tree.find_all(exp.TableAlias):
        names |= {column.name.lower() for column in alias.columns}
    return names | {"rowid", "oid", "_rowid_"}


def unknown_names(sql: str, schema: SchemaView) -> list[UnknownName]:
    """Tables and columns the catalogue does not have, with closest-name hints (at most three each)."""
    tree = read_tree(sql, schema.dialect)
    common = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    tables = {table.name.lower(): table.name for table in schema.tables}
    found: dict[str, UnknownName] = {}
    for table in tree.find_all(exp.Table):
        name = table.name
        if name and name.lower() not in tables and name.lower() not in common:
            found[f"t {name}"] = UnknownName("table", name, closest(name, tables.values()))
    names = known_names(tree, schema)
    originals = [column.name for _, column in schema.columns()]
    sources = _sources(tree, schema)
    for column in tree.find_all(exp.Column):
        name = column.name
        if not name or isinstance(column.this, exp.Star):
            continue
        owner = sources.get(column.table.lower()) if column.table else None
        if owner is not None:
            if name.lower() not in owner and name.lower() not in ("rowid", "oid", "_rowid_"):
                shown = f"{column.table}.{name}"
                found[f"c {shown}"] = UnknownName("column", shown, closest(name, owner.values()))
        elif name.lower() not in names:
            found[f"c {name}"] = UnknownName("column", name, closest(name, originals))
    return list(found.values())


def _sources(tree: Any, schema: SchemaView) -> dict[str, Mapping[str, str]]:
    """Alias -> columns, for aliases that mean one catalogue table throughout the statement."""
    common = {cte.alias.lower() for cte in tree.find_all(exp.CTE)}
    derived = {item.alias.lower() for item in tree.find_all(exp.Subquery) if item.alias}
    sources: dict[str, Mapping[str, str]] = {}
    clashing: set[str] = set()
    for node in tree.find_all(exp.Table):
        table = schema.table(node.name)
        alias = (node.alias or node.name).lower()
        if table is None or node.name.lower() in common:
            clashing.add(alias)
            continue
        columns = {column.name.lower(): column.name for column in table.columns}
        if alias in sources and sources[alias] != columns:
            clashing.add(alias)
        sources[alias] = columns
    return {key: value for key, value in sources.items() if key not in clashing | derived | common}


def closest(name: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """Up to three candidates that look most like `name`, letter case ignored."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    wanted = name.lower()
    found = difflib.get_close_matches(wanted, by_lower, n=3, cutoff=0.5)
    if not found:
        found = [lower for lower in by_lower if wanted in lower or lower in wanted][:3]
    return tuple(by_lower[lower] for lower in found)


def used_names(sql: str, schema: SchemaView) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Catalogue tables, and `table.column` names, that a statement reads (best effort for columns)."""
    tree = read_tree(sql, schema.dialect)
    tables = [
        table
        for name in dict.fromkeys(node.name.lower() for node in tree.find_all(exp.Table))
        if (table := schema.table(name)) is not None
    ]
    sources = {
        (node.alias or node.name).lower(): schema.table(node.name) for node in tree.find_all(exp.Table)
    }
    columns: dict[str, None] = {}
    for node in tree.find_all(exp.Column):
        owner = sources.get(node.table.lower()) if node.table else None
        for table in [owner] if owner is not None else tables:
            column = table.column(node.name)
            if column is not None:
                columns[f"{table.name}.{column.name}"] = None
                break
    return tuple(table.name for table in tables), tuple(columns)


def node_count(sql: str, dialect: str) -> int:
    """How many nodes the statement's tree has: the measure of its length."""
    return sum(1 for _ in read_tree(sql, dialect).walk())


def is_ordered(sql: str, dialect: str) -> bool:
    """Whether the statement has a top-level ORDER BY."""
    return read_tree(sql, dialect).args.get("order") is not None


def order_columns(sql: str, dialect: str) -> tuple[int, ...] | None:
    """Positions of the top-level ORDER BY keys in the select list; None when one is not selected."""
    tree = read_tree(sql, dialect)
    order = tree.args.get("order")
    if order is None or not isinstance(tree, exp.Select):
        return None
    positions = []
    for item in order.expressions:
        key = item.this if isinstance(item, exp.Ordered) else item
        position = _position(key, tree.expressions)
        if position is None:
            return None
        positions.append(position)
    return tuple(positions)


def _position(key: Any, projections: list[Any]) -> int | None:
    if isinstance(key, exp.Literal) and not key.is_string:
        number = int(key.this)
        return number - 1 if 0 < number <= len(projections) else None
    wanted = key.sql(normalize=True).lower()
    for position, projection in enumerate(projections):
        inner = projection.this if isinstance(projection, exp.Alias) else projection
        names = {inner.sql(normalize=True).lower(), projection.alias_or_name.lower()}
        if wanted in names or (isinstance(key, exp.Column) and key.name.lower() in names):
            return position
    return None


def with_order_keys(sql: str, dialect: str) -> tuple[str, int] | None:
    """The statement with its ORDER BY keys appended to the select list, and how many were appended.

    Lets a check see which rows tie. None where appending would change the rows (DISTINCT, set
    operations, no ORDER BY).
    """
    tree = parse(sql, dialect)
    order = tree.args.get("order")
    if order is None or not isinstance(tree, exp.Select) or tree.args.get("distinct"):
        return None
    keys = [item.this if isinstance(item, exp.Ordered) else item for item in order.expressions]
    for index, key in enumerate(keys):
        if isinstance(key, exp.Literal):
            return None
        tree = tree.select(exp.alias_(key.copy(), f"order_key_{index + 1}"), copy=False)
    return str(tree.sql(dialect=dialect_name(dialect))), len(keys)


def skeleton(sql: str, dialect: str) -> str:
    """The statement with names and literals masked: what DAIL-SQL compares."""
    try:
        tree = parse(sql, dialect)
    except SqlFailedError:
        return ""
    for literal in list(tree.find_all(exp.Literal)):
        literal.replace(exp.Placeholder(this="v"))
    for identifier in tree.find_all(exp.Identifier):
        identifier.set("this", "_")
        identifier.set("quoted", False)
    return str(tree.sql(dialect=dialect_name(dialect)))
