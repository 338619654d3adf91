"""Who is asking, as plain data: what processes need that serve no HTTP."""

from __future__ import annotations

from dataclasses import dataclass, replace

ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """A known caller. `tenant` bounds every row it may touch; the scope `admin` passes every check."""

    key_id: str
    tenant: str
    scopes: frozenset[str]
    request_id: str = ""
    budget_id: str | None = None

    def allows(self, scope: str) -> bool:
        """Whether this principal holds `scope`."""
        return scope in self.scopes or ADMIN in self.scopes

    def with_request(self, request_id: str) -> Principal:
        """The same caller in another request."""
        return replace(self, request_id=request_id)
