"""The SQL gate (Pi-SQL section 8.5): pure, and the only maker of `AdmittedStatement`."""

from services.text2sql.gate.contract import AdmittedStatement, RejectionCode, SqlRejected
from services.text2sql.gate.gate import admit

__all__ = ["AdmittedStatement", "RejectionCode", "SqlRejected", "admit"]
