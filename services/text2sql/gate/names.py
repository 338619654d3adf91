"""Which names in a statement are real tables, and whether the caller may read them.

A name is a common table expression only where it is certainly one for the engine too: visible at
that place and equal by the dialect's own rule of quoting and letter case. Everything else must be
on the caller's list, so a doubt makes a statement refused, never a table read.
"""

from collections.abc import Collection

from sqlglot import exp

from services.text2sql.gate.contract import SqlRejected
from services.text2sql.gate.vocabulary import DEFAULT_SCHEMA, SYSTEM_PREFIXES, SYSTEM_SCHEMAS

_FOLDING = ("sqlite", "duckdb")  # names ignore case, quoted or not


def read_tables(tree: exp.Expr, dialect: str, allowed: Collection[str] | None) -> frozenset[str]:
    """The real tables a statement reads, as they were allowed.

    Raises SqlRejected with code `table` or `system_table`.
    """
    permitted = None if allowed is None else {_fold(name, dialect): name for name in allowed}
    found = set()
    for table in tree.find_all(exp.Table):
        if isinstance(table.this, exp.Func):
            continue  # a table function; judged as a function
        if not isinstance(table.this, exp.Identifier):
            raise SqlRejected("unsupported", "a table is named by something else than a name")
        if not table.db and not table.catalog and _is_cte(table, dialect):
            continue
        found.add(_real_table(table, dialect, permitted))
    return frozenset(found)


def _real_table(table: exp.Table, dialect: str, permitted: dict[str, str] | None) -> str:
    name, schema = _spelled(table.this, dialect), _spelled(table.args.get("db"), dialect)
    shown = f"{schema}.{name}" if schema else name
    if table.catalog:
        raise SqlRejected("table", f"{table.catalog}.{shown} is in another database", "name tables only")
    if schema.lower() in SYSTEM_SCHEMAS or name.lower().startswith(SYSTEM_PREFIXES[dialect]):
        raise SqlRejected("system_table", f"{shown} is a table of the database system")
    if dialect == "duckdb" and set(name) & set("./\\:*?"):
        raise SqlRejected("table", f"{shown} names a file", "query tables of the catalogue")
    if permitted is None:
        return shown
    bare = not schema or schema == DEFAULT_SCHEMA.get(dialect)
    for candidate in (shown, name) if bare else (shown,):
        if _fold(candidate, dialect) in permitted:
            return permitted[_fold(candidate, dialect)]
    if bare and not schema and dialect in DEFAULT_SCHEMA:
        qualified = _fold(f"{DEFAULT_SCHEMA[dialect]}.{name}", dialect)
        if qualified in permitted:
            return permitted[qualified]
    raise SqlRejected("table", f"there is no table {shown} among those you may read", "check the table names")


def _spelled(identifier: exp.Expr | None, dialect: str) -> str:
    """A name as the engine resolves it."""
    if not isinstance(identifier, exp.Identifier):
        return ""
    return identifier.name.lower() if dialect == "postgres" and not identifier.quoted else identifier.name


def _fold(name: str, dialect: str) -> str:
    return name.lower() if dialect in _FOLDING or dialect == "mysql" else name


def _is_cte(table: exp.Table, dialect: str) -> bool:
    """Whether a common table expression of that name is visible where the table stands."""
    wanted = _spelled(table.this, dialect)
    wanted = wanted.lower() if dialect in _FOLDING else wanted
    inner: exp.Expr = table
    while inner.parent is not None:
        outer = inner.parent
        with_ = outer.args.get("with_")
        if (
            isinstance(with_, exp.With)
            and with_ is not inner
            and wanted in _aliases(with_.expressions, dialect)
        ):
            return True
        if isinstance(outer, exp.With):
            # inside one of the expressions: the earlier ones are visible, and itself if recursive
            position = next(index for index, cte in enumerate(outer.expressions) if cte is inner)
            visible = outer.expressions[: position + (1 if outer.args.get("recursive") else 0)]
            if wanted in _aliases(visible, dialect):
                return True
        inner = outer
    return False


def _aliases(expressions: list[exp.Expr], dialect: str) -> set[str]:
    names = set()
    for cte in expressions:
        alias = cte.args.get("alias")
        name = _spelled(alias.this if alias is not None else None, dialect)
        names.add(name.lower() if dialect in _FOLDING else name)
    return names
