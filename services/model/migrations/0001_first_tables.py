"""Engines, aliases and artifacts of the model service."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

import shared.database

revision: str = "0001"
down_revision: str | None = None
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    op.create_table(
        "model_aliases",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=128), nullable=False),
        sa.Column("engine_id", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=128), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "name", name=op.f("pk_model_aliases")),
    )
    with op.batch_alter_table("model_aliases", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_aliases_engine_id"), ["engine_id"], unique=False)

    op.create_table(
        "model_artifacts",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("manifest_sha256", sa.String(length=64), nullable=False),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("created_at", shared.database.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_artifacts")),
    )
    with op.batch_alter_table("model_artifacts", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_artifacts_tenant"), ["tenant"], unique=False)

    op.create_table(
        "model_engines",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("created_at", shared.database.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_model_engines")),
    )
    with op.batch_alter_table("model_engines", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_engines_tenant"), ["tenant"], unique=False)

    op.create_table(
        "model_idempotency",
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("made_at", shared.database.UtcDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "key", name=op.f("pk_model_idempotency")),
    )
    with op.batch_alter_table("model_idempotency", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_idempotency_made_at"), ["made_at"], unique=False)

    op.create_table(
        "model_artifact_files",
        sa.Column("artifact_id", sa.String(length=64), nullable=False),
        sa.Column("path", sa.String(length=200), nullable=False),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["artifact_id"],
            ["model_artifacts.id"],
            name=op.f("fk_model_artifact_files_artifact_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("artifact_id", "path", name=op.f("pk_model_artifact_files")),
    )
    with op.batch_alter_table("model_artifact_files", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_model_artifact_files_sha256"), ["sha256"], unique=False)


def downgrade() -> None:
    with op.batch_alter_table("model_artifact_files", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_model_artifact_files_sha256"))

    op.drop_table("model_artifact_files")
    with op.batch_alter_table("model_idempotency", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_model_idempotency_made_at"))

    op.drop_table("model_idempotency")
    with op.batch_alter_table("model_engines", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_model_engines_tenant"))

    op.drop_table("model_engines")
    with op.batch_alter_table("model_artifacts", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_model_artifacts_tenant"))

    op.drop_table("model_artifacts")
    with op.batch_alter_table("model_aliases", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_model_aliases_engine_id"))

    op.drop_table("model_aliases")
