"""Settings of whatever queues or runs work: one jobs database and one Redis for the whole suite."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr

from shared.settings import ServiceSettings


class JobSettings(ServiceSettings):
    """Base of the settings of services that queue work; the worker uses it as it is."""

    service: ClassVar[str] = "worker"

    jobs_database_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL of the jobs database; default is jobs.db under `home`"
    )
    jobs_modules: tuple[str, ...] | None = Field(
        None,
        description="modules whose HANDLERS are the kinds of work; default is every services.<name>.jobs "
        "and shared.jobs.diagnostics",
    )
    jobs_namespace: str = Field(
        "lattice", pattern=r"^[a-z0-9_-]+$", description="prefix of the queue's keys in Redis"
    )
    jobs_lease_seconds: float = Field(
        20.0, gt=1, description="a worker silent for this long has lost its jobs to another one"
    )
    jobs_renew_seconds: float = Field(5.0, gt=0, description="how often a worker renews its leases")
    jobs_drain_seconds: float = Field(
        20.0, ge=0, le=24, description="time a stopping worker gives its jobs to reach a checkpoint"
    )
    jobs_failed_days: float = Field(
        30.0, gt=0, description="how long failed jobs are kept with their problem"
    )
    jobs_max_queued: int = Field(100_000, gt=0, description="queued jobs of one tenant before 429")
    jobs_metrics_port: int = Field(
        0, ge=0, le=65535, description="port on which a worker answers /metrics; 0 turns it off"
    )

    def resolved_jobs_database_url(self) -> str:
        """The jobs database, or the SQLite file all services of this `home` share."""
        if self.jobs_database_url is not None:
            return self.jobs_database_url.get_secret_value()
        return f"sqlite:///{Path(self.home).resolve() / 'jobs.db'}"
