"""What the SQL runner takes and gives. Credentials live in `DatabaseTarget` and nowhere else."""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

ErrorCode = Literal["sql_error", "sql_timeout", "result_too_large", "database_unavailable"]

_DIALECTS = {
    "sqlite": "sqlite",
    "postgresql": "postgres",
    "postgres": "postgres",
    "mysql": "mysql",
    "mariadb": "mysql",
    "duckdb": "duckdb",
}


class QueryError(Exception):
    """The engine would not answer. `message` is the engine's own, without credentials."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code: ErrorCode = code
        self.message = message


@dataclass(frozen=True, slots=True)
class DatabaseTarget:
    """Where a database is. The URL may hold a password and never shows in a repr."""

    dialect: str
    url: str = field(repr=False)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """From a SQLAlchemy-style URL: `sqlite:////path`, `postgresql+psycopg://...`.

        Raises ValueError for a scheme that no runner serves.
        """
        scheme = url.partition("://")[0].partition("+")[0].lower()
        if scheme not in _DIALECTS or "://" not in url:
            raise ValueError(
                f"no runner for {scheme or 'an empty URL'}: use sqlite, postgresql, mysql, duckdb"
            )
        return cls(_DIALECTS[scheme], url)


@dataclass(frozen=True, slots=True)
class QueryResult:
    """Rows as the engine gave them, at most the cap; `seconds` is execution and fetch only."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    truncated: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadedTable:
    """A table narrowed for a snapshot; `oversized` ones carry no rows."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
    oversized: bool = False
