"""What crosses the wire on the management paths."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from gateway.routing import SCOPES

Scope = Annotated[str, AfterValidator(lambda value: _known_scope(value))]
Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")]
Money = Annotated[Decimal, Field(ge=0, le=1_000_000_000, max_digits=15, decimal_places=6)]
Tokens = Annotated[int, Field(ge=0, le=10**15)]
RequestsPerMinute = Annotated[int, Field(ge=1, le=10**9)]
TokensPerMinute = Annotated[int, Field(ge=1, le=10**15)]
Period = Literal["total", "day", "month"]
_CLASS = re.compile(r"^[a-z][a-z0-9_-]{0,31}$")


def _known_scope(value: str) -> str:
    if value not in SCOPES:
        raise ValueError(f"unknown scope; there are {', '.join(sorted(SCOPES))}")
    return value


class Strict(BaseModel):
    """Refuses unknown fields."""

    model_config = ConfigDict(extra="forbid")


class BudgetLimits(Strict):
    """Hard limits: a call that could exceed one is refused before it starts."""

    usd: Money | None = Field(None, description="US dollars as a decimal string", examples=["25.00"])
    tokens: Tokens | None = Field(None, description="prompt and completion tokens together")
    period: Period = Field("total", description="when the counters start again (UTC)")


class BudgetCreate(BudgetLimits):
    """A budget that any number of keys may share."""

    name: Name


class BudgetChange(Strict):
    """Fields that are absent stay as they are; null removes a limit."""

    name: Name | None = None
    usd: Money | None = None
    tokens: Tokens | None = None


class Budget(BaseModel):
    """A budget and what is used of it in the running period."""

    id: str
    name: str
    usd: str | None
    tokens: int | None
    period: Period
    used_usd: str
    used_tokens: int
    reserved_usd: str = Field(description="held for calls that are running")
    reserved_tokens: int
    created_at: datetime


class KeyCreate(Strict):
    """A key for a person or a program; give `budget` for one of its own or `budget_id` to share one."""

    name: Name
    scopes: list[Scope] = Field(min_length=1, max_length=32, examples=[["model"]])
    expires_at: datetime | None = Field(None, description="RFC 3339; null: never")
    requests_per_minute: RequestsPerMinute | None = None
    tokens_per_minute: TokensPerMinute | None = None
    budget: BudgetLimits | None = None
    budget_id: str | None = Field(None, max_length=40, pattern=r"^[A-Za-z0-9_]+$")
    tenant_class: str = Field(
        "standard",
        pattern=_CLASS.pattern,
        description="label under which its traffic appears in metrics",
    )


class Key(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    tenant: str
    tenant_class: str
    scopes: list[str]
    shown: str = Field(description="how the secret begins", examples=["lw_a1b2c3"])
    requests_per_minute: int | None
    tokens_per_minute: int | None
    budget_id: str | None
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime


class KeyCreated(Key):
    """A key with its secret, which is shown this once."""

    key: str


class KeyRotate(Strict):
    """How long the old secret still works beside the new one."""

    overlap_seconds: int = Field(0, ge=0, le=30 * 86400)


class Usage(BaseModel):
    """Sums over one group; the fields that were not grouped by are null."""

    day: date | None = None
    key_id: str | None = None
    service: str | None = None
    model: str | None = None
    requests: int
    failures: int
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_usd: str


class PriceEntry(BaseModel):
    """US dollars per million tokens and per request; `model` null is the default of all others."""

    model: str | None
    prompt: str
    completion: str
    cached_prompt: str
    request: str
    max_output_tokens: int


class Prices(BaseModel):
    """The price table."""

    data: list[PriceEntry]


class Health(BaseModel):
    """Whether the gateway can work; `services` names rooms that cannot."""

    status: Literal["ready", "degraded", "not ready"]
    not_ready: dict[str, str]
