"""The only place where model-written Python runs (Pi-SQL section 8).

with Sandbox() as sandbox:
    outcome = sandbox.run(program, Snapshot({"t": Table(("a",), [(1,), (2,)])}))
"""

from shared.sandbox.contract import (
    Cell,
    Dialect,
    Form,
    Limits,
    ProgramError,
    SandboxOutcome,
    SandboxUnavailable,
    Snapshot,
    Status,
    Table,
    plain_cell,
)
from shared.sandbox.result import row_digest
from shared.sandbox.sandbox import Sandbox
from shared.sandbox.tables import HELPER_NAMES

__all__ = [
    "HELPER_NAMES",
    "Cell",
    "Dialect",
    "Form",
    "Limits",
    "ProgramError",
    "Sandbox",
    "SandboxOutcome",
    "SandboxUnavailable",
    "Snapshot",
    "Status",
    "Table",
    "plain_cell",
    "row_digest",
]
