"""Settings of the text2sql service and of its jobs."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from services.text2sql.pisql.configuration import ModelProfile
from shared.jobs import JobSettings

ProfileName = Literal["small", "full"]


class Text2SqlSettings(JobSettings):
    """What the service, and the worker that runs its jobs, must be told."""

    service: ClassVar[str] = "text2sql"

    credentials_secret: SecretStr = Field(
        description="at least 32 characters; encrypts the URLs of registered databases at rest"
    )
    text2sql_model: str = Field(
        "default", description="model alias that every stage uses unless told otherwise"
    )
    text2sql_model_profile: ProfileName = Field(
        "small",
        description="small: short prompts and grammar-held output; full: any capable model",
    )
    text2sql_model_profiles: dict[str, ProfileName] = Field(
        default_factory=dict, description="profile of single aliases, over text2sql_model_profile"
    )
    text2sql_embedding_model: str | None = Field(
        None,
        description="alias by whose embeddings stored values are compared with the question's words; "
        "without one, only their spelling is",
    )
    text2sql_demo: bool = Field(True, description="load the demonstration database `flights` on first start")
    text2sql_demo_days: int = Field(
        7, ge=1, le=31, description="days of January 2013 whose flights the demonstration database holds"
    )
    text2sql_upload_bytes: int = Field(256 << 20, gt=0, description="largest upload of database files")
    text2sql_hosts: tuple[str, ...] = Field(
        (),
        description="database hosts (host or host:port) that any key with scope sql may register; "
        "others, and files, need scope admin",
    )
    text2sql_sandbox_workers: int = Field(2, ge=1, description="programs that run at the same time")
    text2sql_questions: int = Field(16, ge=1, description="questions answered at the same time; more get 429")
    text2sql_deadline_seconds: float = Field(90.0, gt=0, description="longest time one question may take")
    text2sql_catalogues: int = Field(16, ge=1, description="catalogues with value indices kept in memory")

    def model_profile(self, alias: str, asked: ProfileName | None = None) -> ModelProfile:
        """The profile of an alias; a request may ask for another."""
        name = asked or self.text2sql_model_profiles.get(alias, self.text2sql_model_profile)
        return ModelProfile.small() if name == "small" else ModelProfile()

    def files(self) -> Path:
        """Folder of local copies of uploaded databases."""
        return self.home.resolve() / "text2sql"
