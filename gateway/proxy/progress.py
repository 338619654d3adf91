"""What is known of a running model call, so that it can be settled at any moment."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.limits import Usage
from gateway.prices import PriceTag
from gateway.proxy.upstreams import Overloaded
from gateway.proxy.usage import StreamMeter, Tokens


@dataclass(slots=True)
class Progress:
    """A call between admission and settlement.

    `owed` says whether stopping now costs something: an upstream works on the call and has not
    refused it. Where the upstream told no usage, the prompt counts by its length and the answer by
    the chunks or bytes that went out.
    """

    tag: PriceTag
    prompt_expected: int
    owed: bool = False
    tokens: Tokens | None = None
    delivered: int = 0
    meter: StreamMeter | None = None
    ok: bool = False

    def usage(self) -> Usage:
        """What to book, were the call to end now."""
        tokens = self.tokens
        meter = self.meter
        if tokens is None and meter is not None:
            tokens = meter.tokens
        if tokens is None:
            if not self.owed:
                return Usage(failed=not self.ok)
            completion = meter.chunks if meter is not None else self.delivered // 4
            tokens = Tokens(self.prompt_expected, completion, 0)
        cost = self.tag.cost(tokens.prompt, tokens.completion, tokens.cached)
        return Usage(tokens.prompt, tokens.completion, tokens.cached, cost, not self.ok)


class Held:
    """Bytes of request bodies held at once in this process."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0

    def take(self, count: int) -> None:
        """Count bytes in.

        Raises:
            Overloaded: there are too many already.
        """
        if self.bytes + count > self.limit:
            raise Overloaded("Too many large requests are being answered at once.", retry_after=2)
        self.bytes += count

    def give(self, count: int) -> None:
        """Count bytes out."""
        self.bytes -= count
