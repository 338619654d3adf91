"""Alembic's environment for all services; the caller hands over connection, metadata and version table."""

from alembic import context

attributes = context.config.attributes
metadata = attributes["metadata"]


def only_ours(item: object, name: str | None, kind: str, reflected: bool, other: object) -> bool:
    """Several services may share a database: leave the tables of the others alone."""
    return not (kind == "table" and reflected and name not in metadata.tables)


context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    version_table=attributes["version_table"],
    render_as_batch=True,
    include_object=only_ours,
)
with context.begin_transaction():
    context.run_migrations()
