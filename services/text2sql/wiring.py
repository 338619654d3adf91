"""The parts of text2sql put together, for the service and for the process of a job alike."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from services.text2sql.asking import Asker
from services.text2sql.registry import Registry
from services.text2sql.settings import Text2SqlSettings
from services.text2sql.vault import Vault
from shared.artifacts import ArtifactStore
from shared.database import Database
from shared.principal import PrincipalSigner
from shared.sandbox import Sandbox, SandboxUnavailable
from shared.telemetry import logger

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a route or a job handler works with."""

    settings: Text2SqlSettings
    database: Database
    artifacts: ArtifactStore
    registry: Registry
    asker: Asker
    sandbox: Sandbox | None

    async def close(self) -> None:
        """Stop the sandbox's workers and close the database."""
        if self.sandbox is not None:
            self.sandbox.close()
        await self.database.close()


def make_parts(
    settings: Text2SqlSettings, client: httpx.AsyncClient | None = None, *, with_sandbox: bool = True
) -> Parts:
    """Wire the parts. Where no sandbox can be had the service runs on, in SQL-only mode.

    `with_sandbox` false spares its workers where no program will run.
    """
    database = Database(settings.resolved_database_url())
    artifacts = ArtifactStore(settings.resolved_artifacts_url())
    registry = Registry(settings, database, artifacts, Vault(settings.credentials_secret.get_secret_value()))
    sandbox: Sandbox | None = None
    try:
        sandbox = Sandbox(workers=settings.text2sql_sandbox_workers) if with_sandbox else None
    except SandboxUnavailable as error:
        log.error("sandbox_unavailable", reason=str(error))
    signer = PrincipalSigner(settings.principal_secret.get_secret_value())
    asker = Asker(settings, database, registry, artifacts, sandbox, signer, client)
    return Parts(settings, database, artifacts, registry, asker, sandbox)
