"""Every filter of a list begins an index; an index of the queue's upkeep holds only the rows it is for."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None

PARTIAL = {
    "ix_jobs_outbox": ("announced_at IS NULL", ["state", "available_at"]),
    "ix_jobs_lease": ("lease_expires_at IS NOT NULL", ["state", "lease_expires_at"]),
    "ix_jobs_deadline": ("deadline IS NOT NULL", ["state", "deadline"]),
    "ix_jobs_owner": ("lease_owner IS NOT NULL", ["lease_owner"]),
    "ix_jobs_expires_at": ("expires_at IS NOT NULL", ["expires_at"]),
}


def upgrade() -> None:
    # Indexes only: SQLite changes a constraint by copying the table, and dropping the old one would
    # cascade to the events.
    for name in ("ix_jobs_tenant_kind_id", *PARTIAL):
        op.drop_index(name, table_name="jobs")
    op.create_index("ix_jobs_tenant_kind_state_id", "jobs", ["tenant", "kind", "state", "id"])
    op.create_index("ix_jobs_tenant_scope_state_id", "jobs", ["tenant", "scope", "state", "id"])
    for name, (condition, columns) in PARTIAL.items():
        where = sa.text(condition)
        op.create_index(name, "jobs", columns, sqlite_where=where, postgresql_where=where)
