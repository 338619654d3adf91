"""first tables"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import shared.database

revision: str = "9f0ca2149a51"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:

    op.create_table(
        "gateway_budgets",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("limit_usd", sa.BigInteger(), nullable=True),
        sa.Column("limit_tokens", sa.BigInteger(), nullable=True),
        sa.Column("period", sa.String(length=8), nullable=False),
        sa.Column("created_at", shared.database.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gateway_budgets")),
    )
    with op.batch_alter_table("gateway_budgets", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_gateway_budgets_tenant"), ["tenant"], unique=False)

    op.create_table(
        "gateway_idempotency",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("made_at", shared.database.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("pk_gateway_idempotency")),
    )
    with op.batch_alter_table("gateway_idempotency", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_gateway_idempotency_made_at"), ["made_at"], unique=False)

    op.create_table(
        "gateway_ledger_cursor",
        sa.Column("epoch", sa.String(length=64), nullable=False),
        sa.Column("last_id", sa.String(length=40), nullable=False),
        sa.PrimaryKeyConstraint("epoch", name=op.f("pk_gateway_ledger_cursor")),
    )
    op.create_table(
        "gateway_usage",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("budget_id", sa.String(length=40), nullable=False),
        sa.Column("service", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "day", "key_id", "budget_id", "service", "model", name=op.f("pk_gateway_usage")
        ),
    )
    with op.batch_alter_table("gateway_usage", schema=None) as batch_op:
        batch_op.create_index("ix_gateway_usage_budget_day", ["budget_id", "day"], unique=False)
        batch_op.create_index("ix_gateway_usage_tenant_day", ["tenant", "day"], unique=False)

    op.create_table(
        "gateway_keys",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("tenant_class", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("previous_hash", sa.String(length=64), nullable=True),
        sa.Column("previous_until", shared.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("shown", sa.String(length=16), nullable=False),
        sa.Column("scopes", sa.String(length=500), nullable=False),
        sa.Column("requests_per_minute", sa.Integer(), nullable=True),
        sa.Column("tokens_per_minute", sa.BigInteger(), nullable=True),
        sa.Column("budget_id", sa.String(length=40), nullable=True),
        sa.Column("expires_at", shared.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", shared.database.UtcDateTime(timezone=True), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", shared.database.UtcDateTime(timezone=True), nullable=False),
        sa.Column("updated_at", shared.database.UtcDateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["budget_id"], ["gateway_budgets.id"], name=op.f("fk_gateway_keys_budget_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gateway_keys")),
        sa.UniqueConstraint("hash", name=op.f("uq_gateway_keys_hash")),
        sa.UniqueConstraint("previous_hash", name=op.f("uq_gateway_keys_previous_hash")),
    )
    with op.batch_alter_table("gateway_keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_gateway_keys_budget_id"), ["budget_id"], unique=False)
        batch_op.create_index(batch_op.f("ix_gateway_keys_tenant"), ["tenant"], unique=False)
        batch_op.create_index(batch_op.f("ix_gateway_keys_updated_at"), ["updated_at"], unique=False)


def downgrade() -> None:

    with op.batch_alter_table("gateway_keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_gateway_keys_updated_at"))
        batch_op.drop_index(batch_op.f("ix_gateway_keys_tenant"))
        batch_op.drop_index(batch_op.f("ix_gateway_keys_budget_id"))

    op.drop_table("gateway_keys")
    with op.batch_alter_table("gateway_usage", schema=None) as batch_op:
        batch_op.drop_index("ix_gateway_usage_tenant_day")
        batch_op.drop_index("ix_gateway_usage_budget_day")

    op.drop_table("gateway_usage")
    op.drop_table("gateway_ledger_cursor")
    with op.batch_alter_table("gateway_idempotency", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_gateway_idempotency_made_at"))

    op.drop_table("gateway_idempotency")
    with op.batch_alter_table("gateway_budgets", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_gateway_budgets_tenant"))

    op.drop_table("gateway_budgets")
