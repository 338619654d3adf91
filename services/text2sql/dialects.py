"""How statements are read: sqlglot's dialects, mended where an engine reads a statement otherwise."""

from __future__ import annotations

import sqlglot
from sqlglot import exp
from sqlglot.dialects import SQLite


class EngineSQLite(SQLite):  # type: ignore[misc]
    """SQLite as the engine reads it: in a LIMIT, % is the remainder and never per cent."""

    class Parser(SQLite.Parser):  # type: ignore[misc]
        def _parse_term(self, parse_mod: bool = True) -> exp.Expr | None:
            expression: exp.Expr | None = super()._parse_term()
            return expression


READERS: dict[str, type[sqlglot.Dialect] | str] = {
    "sqlite": EngineSQLite,
    "postgres": "postgres",
    "mysql": "mysql",
    "duckdb": "duckdb",
}
"""What reads a statement, by sqlglot's name of the dialect."""
