"""Settings every service has, read from `LATTICEWORK_*` variables and `.env`.

A service subclasses `ServiceSettings` and adds its own fields, each carrying the room's name
(`vision_max_pixels` is `LATTICEWORK_VISION_MAX_PIXELS`). A wrong setting is found at start and
said in one sentence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "LATTICEWORK_"
SCHEMES = {
    "database_url": ("sqlite", "postgresql", "postgres"),
    "redis_url": ("redis", "rediss", "unix"),
    "gateway_url": ("http", "https"),
    "otel_endpoint": ("http", "https"),
}
"""The kinds of address a setting takes; a database's may name its driver (`postgresql+asyncpg`)."""


class ConfigurationError(Exception):
    """The settings do not make a runnable service; the message is one sentence that says why."""


class ServiceSettings(BaseSettings):
    """The common part of all settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
        frozen=True,
    )
    service: ClassVar[str] = "service"

    home: Path = Field(Path(".latticework"), description="folder of all local state")
    host: str = Field("127.0.0.1", description="address the service listens on")
    port: int = Field(0, ge=0, le=65535, description="port the service listens on; 0 picks a free one")
    database_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL; default is an SQLite file of this service under `home`"
    )
    redis_url: SecretStr | None = Field(None, description="redis://... of the queue and the counters")
    artifacts_url: str | None = Field(
        None,
        description="fsspec URL of the artifact store (a folder, s3://...); default under `home`",
    )
    principal_secret: SecretStr = Field(
        description="at least 32 characters, the same everywhere in the suite; signs principal tokens"
    )
    metrics_token: SecretStr | None = Field(
        None, description="bearer token with which a scraper may read /metrics without a principal"
    )
    gateway_url: str = Field("http://127.0.0.1:8080", description="where services reach the gateway")
    body_limit_bytes: int = Field(32 << 20, gt=0, description="largest request body accepted")
    drain_seconds: float = Field(20.0, ge=0, description="time given to running requests at stop")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "text"] = "json"
    otel_endpoint: str | None = Field(None, description="OTLP/HTTP collector; unset turns traces off")

    @field_validator(*SCHEMES)
    @classmethod
    def _known_scheme(cls, value: SecretStr | str | None, info: ValidationInfo) -> SecretStr | str | None:
        text = value.get_secret_value() if isinstance(value, SecretStr) else value
        schemes = SCHEMES[str(info.field_name)]
        if text is not None:
            scheme, separator, _ = text.partition("://")
            if not separator or scheme.partition("+")[0] not in schemes:
                raise ValueError(f"must begin with {' or '.join(f'{name}://' for name in schemes)}")
        return value

    def resolved_database_url(self) -> str:
        """The database URL, or the SQLite file of this service under `home`."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.home.resolve() / f'{self.service}.db'}"

    def resolved_artifacts_url(self) -> str:
        """The artifact store, or the folder under `home`."""
        return self.artifacts_url or str(self.home.resolve() / "artifacts")


SettingsType = TypeVar("SettingsType", bound=ServiceSettings)


def load_settings(kind: type[SettingsType], **overrides: Any) -> SettingsType:
    """Read the settings of a service.

    Raises:
        ConfigurationError: naming the variable at fault and what is wrong with it.
    """
    try:
        settings = kind(**overrides)
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        reason = "is not set" if first["type"] == "missing" else first["msg"].lower()
        reason = reason.removeprefix("value error, ")
        raise ConfigurationError(f"{name} {reason}.") from None
    if len(settings.principal_secret.get_secret_value()) < 32:
        raise ConfigurationError(f"{PREFIX}PRINCIPAL_SECRET must have at least 32 characters.")
    return settings
