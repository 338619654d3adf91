"""What a call costs. Whole micro-dollars, always rounded up: nothing used is ever free by rounding."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MICRO = 1_000_000
MILLION = 1_000_000

Usd = Annotated[Decimal, Field(ge=0, le=1_000_000, max_digits=20, decimal_places=9)]


class Price(BaseModel):
    """US dollars per million tokens and per request.

    `cached_prompt` is for prompt tokens the model had in its cache and defaults to `prompt`.
    `max_output_tokens` bounds the answer of a call that names no bound itself; it is what such a
    call reserves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Usd
    completion: Usd
    cached_prompt: Usd | None = None
    request: Usd = Decimal(0)
    max_output_tokens: int = Field(default=2048, ge=1, le=10_000_000)


class PriceTag:
    """A price prepared for integer arithmetic."""

    __slots__ = ("_cached", "_completion", "_dearest", "_prompt", "_request", "max_output_tokens")

    def __init__(self, price: Price) -> None:
        cached = price.prompt if price.cached_prompt is None else price.cached_prompt
        # Dollars per million tokens are micro-dollars per token; kept as billionths of a dollar
        # per thousand tokens so that nine decimals stay exact.
        self._prompt = int(price.prompt * MILLION * 1000)
        self._cached = int(cached * MILLION * 1000)
        self._dearest = max(self._prompt, self._cached)
        self._completion = int(price.completion * MILLION * 1000)
        self._request = int(price.request * MILLION * 1000) * MILLION
        self.max_output_tokens = price.max_output_tokens

    def cost(self, prompt: int, completion: int, cached: int = 0) -> int:
        """Micro-dollars for one call; `cached` of the `prompt` tokens came from a cache."""
        exact = (
            (prompt - cached) * self._prompt
            + cached * self._cached
            + completion * self._completion
            + self._request
        )
        return -(-exact // (MILLION * 1000))

    def worst(self, prompt: int, completion: int) -> int:
        """Micro-dollars at most, whether the prompt comes from a cache or not."""
        exact = prompt * self._dearest + completion * self._completion + self._request
        return -(-exact // (MILLION * 1000))


class PriceTable:
    """Prices by model alias. An alias without one costs the default; nothing is silently free."""

    def __init__(self, prices: dict[str, Price], default: Price) -> None:
        self.prices = dict(prices)
        self.default = default
        self._tags = {alias: PriceTag(price) for alias, price in prices.items()}
        self._default = PriceTag(default)

    def tag(self, alias: str) -> PriceTag:
        """The price of `alias`."""
        return self._tags.get(alias, self._default)


def usd(micro: int) -> str:
    """Micro-dollars as a decimal string of dollars."""
    sign = "-" if micro < 0 else ""
    whole, fraction = divmod(abs(micro), MICRO)
    digits = f"{fraction:06d}".rstrip("0")
    return f"{sign}{whole}.{digits.ljust(2, '0')}"


def micro_usd(amount: Decimal) -> int:
    """Dollars as whole micro-dollars; a limit is rounded down."""
    return int(amount * MICRO)
