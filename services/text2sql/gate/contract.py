"""What the gate says: an admitted statement, or why a statement was turned away."""

from dataclasses import dataclass, field
from typing import Literal

RejectionCode = Literal[
    "empty",
    "too_long",
    "too_complex",
    "unparsable",
    "multiple_statements",
    "not_a_query",
    "write",
    "into",
    "locking",
    "function",
    "table",
    "system_table",
    "variable",
    "parameter",
    "unsupported",
]


class SqlRejected(Exception):
    """The statement may not run: `code` for programs, `message` and `hint` for people."""

    def __init__(self, code: RejectionCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code: RejectionCode = code
        self.message = message
        self.hint = hint


@dataclass(frozen=True, slots=True)
class AdmittedStatement:
    """One read-only query that passed the gate.

    `sql` is what is executed: written anew from the syntax tree, so no comment or trick of
    spelling survives, with LIMIT `row_cap` + 1 put in (one more row tells a cut). `text` is the
    same without the injected limit, for people. `tables` are the real tables it reads.
    `nodes` counts syntax nodes (the tie-break of Pi-SQL S11).
    """

    sql: str
    text: str
    dialect: str
    row_cap: int
    tables: frozenset[str] = field(default_factory=frozenset)
    ordered: bool = False
    limited: bool = False
    nodes: int = 0
