"""Settings of the front door. Every option can be given as `LATTICEWORK_GATEWAY_...`."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import ClassVar

import orjson
from pydantic import Field, TypeAdapter, ValidationError, field_validator

from gateway.prices import Price, PriceTable
from gateway.routing import ROUTES
from shared.jobs import JobSettings
from shared.settings import ConfigurationError

SERVICES = tuple(dict.fromkeys(route.service for route in ROUTES))
_PRICES = TypeAdapter(dict[str, Price])


class GatewaySettings(JobSettings):
    """What an operator may decide about the gateway."""

    service: ClassVar[str] = "gateway"

    gateway_upstreams: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description='addresses by service, as JSON: {"model": "http://127.0.0.1:8001", '
        '"vision": ["http://a:8002", "http://b:8002"]}',
    )
    gateway_concurrency: int = Field(512, ge=1, description="calls at once to one upstream address")
    gateway_waiting: int = Field(
        128, ge=0, description="calls that may queue for an upstream before 503 is answered"
    )
    gateway_waiting_seconds: float = Field(1.0, gt=0, description="longest time in that queue")
    gateway_connect_seconds: float = Field(5.0, gt=0, description="time to connect to an upstream")
    gateway_first_byte_seconds: float = Field(
        300.0, gt=0, description="time from a request to the first byte of its answer"
    )
    gateway_read_seconds: float = Field(120.0, gt=0, description="longest silence inside an answer")
    gateway_deadline_seconds: float = Field(
        600.0, gt=0, description="longest life of a call; `Lattice-Timeout` may ask for less"
    )
    gateway_stream_deadline_seconds: float = Field(3600.0, gt=0, description="the same for streamed answers")
    gateway_retries: int = Field(
        2, ge=0, le=10, description="repetitions of a call that failed before its first byte"
    )
    gateway_fallbacks: dict[str, list[str]] = Field(
        default_factory=dict,
        description='model aliases to try when one fails before its first byte: {"large": ["small"]}',
    )

    gateway_model_body_bytes: int = Field(
        16 << 20, gt=0, description="largest body of a model call; it is held for retries and fallbacks"
    )
    gateway_held_bytes: int = Field(
        512 << 20, gt=0, description="bodies of model calls held at once in this process; more is 503"
    )
    gateway_header_seconds: float = Field(10.0, gt=0, description="time a client has for its request head")
    gateway_body_seconds: float = Field(
        10.0, gt=0, description="time after which a body must keep up `gateway_body_rate`"
    )
    gateway_body_rate: int = Field(1024, ge=0, description="slowest body accepted, in bytes a second")
    gateway_write_seconds: float = Field(
        60.0, gt=0, description="time a client may leave an answer lying unread"
    )
    gateway_keep_alive_seconds: float = Field(75.0, gt=0, description="life of an idle client connection")
    gateway_max_connections: int = Field(10_000, ge=1, description="client connections at once")

    gateway_prices: dict[str, Price] = Field(
        default_factory=dict,
        description="US dollars per million tokens by alias: "
        '{"default": {"prompt": "0.1", "completion": "0.2"}}',
    )
    gateway_prices_file: Path | None = Field(None, description="the same table as a JSON file")
    gateway_default_price: Price = Field(
        Price(prompt=Decimal("1"), completion=Decimal("2")),
        description="price of an alias the table does not name",
    )
    gateway_bytes_per_token: float = Field(
        1.0,
        ge=1.0,
        le=8.0,
        description="bytes of prompt a token is taken to have when money is reserved; "
        "with 1 a reservation can never be too small",
    )
    gateway_image_tokens: int = Field(
        2048, ge=0, description="tokens reserved for each image a prompt refers to"
    )

    gateway_reservation_seconds: float = Field(
        30.0, ge=1, description="life of a reservation without a sign of its owner"
    )
    gateway_flush_seconds: float = Field(
        1.0, gt=0, description="pause between writes of settled usage to the database"
    )
    gateway_redis_down_keys: list[str] = Field(
        default_factory=list,
        description="ids of keys still served, within local limits, while Redis is away; others get 503",
    )
    gateway_redis_down_usd: Decimal = Field(
        Decimal("1"), ge=0, description="what each of those keys may spend here until Redis is back"
    )
    gateway_redis_timeout_seconds: float = Field(
        1.0, gt=0, description="silence after which Redis counts as away"
    )

    @field_validator("gateway_upstreams")
    @classmethod
    def _known_services(cls, value: dict[str, str | list[str]]) -> dict[str, str | list[str]]:
        for service, addresses in value.items():
            if service not in SERVICES:
                raise ValueError(f"names '{service}'; services are {', '.join(SERVICES)}")
            for address in [addresses] if isinstance(addresses, str) else addresses:
                if not address.startswith(("http://", "https://")):
                    raise ValueError(f"has '{address}' for '{service}', which is not an http address")
        return value

    def upstream_addresses(self) -> dict[str, list[str]]:
        """Addresses by service, always as lists."""
        return {
            service: [addresses] if isinstance(addresses, str) else list(addresses)
            for service, addresses in self.gateway_upstreams.items()
            if addresses
        }

    def price_table(self) -> PriceTable:
        """The prices of the file and of the settings; the settings win.

        Raises:
            ConfigurationError: the file cannot be read or is not a price table.
        """
        prices: dict[str, Price] = {}
        if self.gateway_prices_file is not None:
            place = f"LATTICEWORK_GATEWAY_PRICES_FILE ({self.gateway_prices_file})"
            try:
                prices = _PRICES.validate_python(orjson.loads(self.gateway_prices_file.read_bytes()))
            except OSError as error:
                raise ConfigurationError(f"{place} cannot be read: {error.strerror}.") from None
            except orjson.JSONDecodeError as error:
                raise ConfigurationError(f"{place} is not JSON: {error}.") from None
            except ValidationError as error:
                first = error.errors(include_input=False)[0]
                where = ".".join(str(part) for part in first["loc"])
                raise ConfigurationError(f"{place} is wrong at {where}: {first['msg'].lower()}.") from None
        return PriceTable(prices | self.gateway_prices, self.gateway_default_price)
