"""The SQL gate: exactly one read-only query, over allowed tables, with a row limit (Pi-SQL 8.5).

Pure. A statement is parsed, every node of the tree is held against allow-lists, and what runs is
written anew from the tree and parsed and judged once more, so that comments, spelling tricks and
differences between reading and writing cannot carry anything past. The engine's own read-only
mode stands behind the gate and is not relied upon here.
"""

import functools
import logging
import re
from collections.abc import Collection

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError

from services.text2sql.dialects import READERS
from services.text2sql.gate.contract import AdmittedStatement, RejectionCode, SqlRejected
from services.text2sql.gate.names import read_tables
from services.text2sql.gate.vocabulary import (
    ANONYMOUS,
    FORBIDDEN_TYPES,
    FUNCTIONS,
    SESSION_WORDS,
    STRUCTURE,
    WRITES,
)

# the parser logs whole statements it does not know; the gate refuses them and names no data
logging.getLogger("sqlglot").setLevel(logging.ERROR)

MAX_CHARACTERS = 20_000
MAX_NODES = 5_000
MAX_PADDING = 10_000
_WIDE = re.compile(r"%[^a-zA-Z%]*(\*|\d{4})")
_ALIASES = {"mariadb": "mysql", "postgresql": "postgres"}


def admit(
    sql: str, dialect: str, allowed_tables: Collection[str] | None = None, row_cap: int = 10_000
) -> AdmittedStatement:
    """The statement as it may run, or SqlRejected.

    `allowed_tables` holds names, `t` or `schema.t`; None means every table that is not the
    system's. Raises ValueError for a dialect without a gate.
    """
    dialect = _ALIASES.get(dialect, dialect)
    if dialect not in READERS:
        raise ValueError(f"no gate for dialect {dialect!r}; one of {', '.join(READERS)}")
    if row_cap < 1:
        raise ValueError("row_cap must be at least 1")
    tables = None if allowed_tables is None else frozenset(allowed_tables)
    return _admit(sql, dialect, tables, row_cap)


@functools.lru_cache(maxsize=2_048)
def _admit(sql: str, dialect: str, allowed: frozenset[str] | None, row_cap: int) -> AdmittedStatement:
    tree = _parse(sql, dialect)
    try:
        tables = _judge(tree, dialect, allowed)
        text = _write(tree, dialect)
        limited = _limit(tree, row_cap)
        final = _write(tree, dialect)
        again = _parse(final, dialect)
        if _judge(again, dialect, allowed) != tables or _write(again, dialect) != final:
            raise SqlRejected("unparsable", "the statement reads differently when written out")
        nodes = sum(1 for _ in tree.walk())
    except RecursionError:
        raise SqlRejected("too_complex", "the statement is nested too deeply") from None
    return AdmittedStatement(
        sql=final,
        text=text,
        dialect=dialect,
        row_cap=row_cap,
        tables=tables,
        ordered=tree.args.get("order") is not None,
        limited=limited,
        nodes=nodes,
    )


def _parse(sql: str, dialect: str) -> exp.Query:
    """The one query in the text."""
    if not sql.strip():
        raise SqlRejected("empty", "there is no statement")
    if len(sql) > MAX_CHARACTERS:
        raise SqlRejected("too_long", f"the statement is longer than {MAX_CHARACTERS} characters")
    if "\x00" in sql:
        raise SqlRejected("unparsable", "the statement holds a zero character")
    try:
        parsed = sqlglot.parse(sql, dialect=READERS[dialect])
    except SqlglotError as error:
        # an engine accepts clauses that the parser does not know, such as INTO OUTFILE: refused too
        message = str(error).split("\n")[0][:300]
        raise SqlRejected("unparsable", f"not {dialect} SQL: {message}") from None
    except RecursionError:
        raise SqlRejected("too_complex", "the statement is nested too deeply") from None
    statements = [tree for tree in parsed if tree is not None and not isinstance(tree, exp.Semicolon)]
    if not statements:
        raise SqlRejected("empty", "there is no statement")
    if len(statements) > 1:
        raise SqlRejected("multiple_statements", f"{len(statements)} statements where one is allowed")
    tree = statements[0]
    while (
        isinstance(tree, exp.Subquery) and set(_given(tree)) == {"this"} and isinstance(tree.this, exp.Query)
    ):
        tree = tree.this  # a query in parentheses
        tree.parent = None
    if type(tree).__name__ in WRITES:
        raise SqlRejected("write", f"{type(tree).__name__.upper()} is not a query", "write one SELECT")
    if not isinstance(tree, exp.Select | exp.SetOperation):
        raise SqlRejected("not_a_query", f"{type(tree).__name__} is not a query", "write one SELECT")
    return tree


def _given(tree: exp.Expr) -> list[str]:
    return [name for name, value in tree.args.items() if value]


def _judge(tree: exp.Query, dialect: str, allowed: frozenset[str] | None) -> frozenset[str]:
    """Hold every node against the allow-lists; the real tables read."""
    for number, node in enumerate(tree.walk()):
        if number > MAX_NODES:
            raise SqlRejected("too_complex", f"the statement has more than {MAX_NODES} parts")
        _judge_node(node, dialect)
    return read_tables(tree, dialect, allowed)


_REFUSED: dict[str, tuple[RejectionCode, str]] = {
    "Into": ("into", "SELECT INTO writes a table"),
    "Lock": ("locking", "a locking clause is not allowed"),
    "Parameter": ("variable", "variables and parameters are not allowed"),
    "SessionParameter": ("variable", "system variables are not allowed"),
    "Placeholder": ("parameter", "placeholders are not allowed; write the value"),
    "Hint": ("unsupported", "optimizer hints are not allowed"),
    "Operator": ("unsupported", "OPERATOR(...) is not allowed"),
    "Dot": ("function", "functions and fields with a schema are not allowed"),
}


def _judge_node(node: exp.Expr, dialect: str) -> None:
    kind = type(node).__name__
    if kind in WRITES:
        raise SqlRejected("write", f"{kind.upper()} inside a query is not allowed", "write one SELECT")
    if kind in _REFUSED:
        raise SqlRejected(*_REFUSED[kind])
    if kind in FORBIDDEN_TYPES:
        raise SqlRejected("system_table", "casts to catalogue types are not allowed")
    if dialect == "sqlite" and (kind == "Format" or _is_call(node, "printf", "format")):
        _judge_format(node)
    elif isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        _judge_function(node, dialect)
    elif isinstance(node, exp.Func) and kind not in STRUCTURE:
        if kind not in FUNCTIONS:
            raise SqlRejected("function", f"the function {node.sql_name().lower()} is not allowed")
        if isinstance(node, exp.Pad):
            _judge_padding(node)
    elif kind not in STRUCTURE and kind not in FUNCTIONS:
        raise SqlRejected("unsupported", f"{kind} is not allowed in a query")
    if isinstance(node, exp.DataType) and node.this in (exp.DataType.Type.USERDEFINED, exp.DataType.Type.XML):
        raise SqlRejected("unsupported", "casts to types of the database's own are not allowed")
    if isinstance(node, exp.Column) and _is_session_word(node, dialect):
        raise SqlRejected("function", f"{node.name} tells who is connected and is not allowed")


def _judge_function(node: exp.Expr, dialect: str) -> None:
    name = node.this
    if not isinstance(name, str) or name.lower() not in ANONYMOUS[dialect]:
        shown = name if isinstance(name, str) else node.name
        raise SqlRejected("function", f"the function {shown[:60].lower()} is not allowed")


def _is_call(node: exp.Expr, *names: str) -> bool:
    return isinstance(node, exp.Anonymous) and isinstance(node.this, str) and node.this.lower() in names


def _judge_format(node: exp.Expr) -> None:
    """SQLite's printf with a pattern written out, whose widths stay below a thousand."""
    arguments = node.expressions if isinstance(node, exp.Anonymous) else [node.this]
    pattern = arguments[0] if arguments else None
    if not isinstance(pattern, exp.Literal) or not pattern.is_string or _WIDE.search(pattern.name):
        raise SqlRejected("function", "printf needs a pattern written as a text, with widths below 1000")


def _judge_padding(node: exp.Pad) -> None:
    """A pad to a billion characters is a memory bomb the engine would set off."""
    width = node.expression
    if not isinstance(width, exp.Literal) or not width.is_int or int(width.name) > MAX_PADDING:
        raise SqlRejected("function", f"a pad needs a width written as a number up to {MAX_PADDING}")


def _is_session_word(node: exp.Column, dialect: str) -> bool:
    identifier = node.this
    return (
        dialect in ("postgres", "duckdb")
        and isinstance(identifier, exp.Identifier)
        and not identifier.quoted
        and not node.table
        and identifier.name.lower() in SESSION_WORDS
    )


def _limit(tree: exp.Query, row_cap: int) -> bool:
    """Put in or lower the top-level LIMIT to row_cap + 1; whether the query had a smaller one."""
    limit = tree.args.get("limit")
    if isinstance(limit, exp.Fetch):
        count, options = limit.args.get("count"), limit.args.get("limit_options")
    elif limit is not None:
        count, options = limit.expression, limit.args.get("limit_options")
    else:
        count = options = None
    small = isinstance(count, exp.Literal) and count.is_int and int(count.name) <= row_cap
    if isinstance(limit, exp.Fetch) and limit.args.get("count") is None:
        small = True  # FETCH FIRST ROW
    if small and options is None:
        return True
    if options is not None and options.args.get("percent"):
        raise SqlRejected("unsupported", "a LIMIT in per cent is not allowed", "write LIMIT 10")
    if small and isinstance(limit, exp.Fetch):
        return True  # WITH TIES: as many as tie, and no more than the runner fetches
    if limit is not None and not _is_unbounded(count) and not isinstance(count, exp.Literal):
        raise SqlRejected("unsupported", "the outermost LIMIT must be a number", "write LIMIT 10")
    tree.set("limit", exp.Limit(expression=exp.Literal.number(row_cap + 1)))
    return False


def _is_unbounded(count: exp.Expr | None) -> bool:
    """No count, ALL, NULL, or SQLite's -1."""
    return (
        count is None
        or isinstance(count, exp.Null)
        or (isinstance(count, exp.Var) and count.name.upper() == "ALL")
        or (isinstance(count, exp.Neg) and isinstance(count.this, exp.Literal))
    )


def _write(tree: exp.Expr, dialect: str) -> str:
    try:
        return str(tree.sql(dialect=READERS[dialect], comments=False))
    except SqlglotError as error:
        raise SqlRejected("unparsable", f"not {dialect} SQL: {error}") from None
