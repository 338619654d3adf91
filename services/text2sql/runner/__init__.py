"""The SQL runner: the only holder of database credentials, and it can only read.

Behind the gate stands each engine's own read-only mode, chosen so that the corpus of hostile
statements changes and reveals nothing even where the gate is left out.
"""

from services.text2sql.runner.connection import ReadOnlyConnection
from services.text2sql.runner.contract import (
    DatabaseTarget,
    ErrorCode,
    LoadedTable,
    QueryError,
    QueryResult,
)
from services.text2sql.runner.run import connect, load_table, run

__all__ = [
    "DatabaseTarget",
    "ErrorCode",
    "LoadedTable",
    "QueryError",
    "QueryResult",
    "ReadOnlyConnection",
    "connect",
    "load_table",
    "run",
]
