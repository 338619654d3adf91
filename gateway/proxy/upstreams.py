"""The services behind us: which address answers, how often to try, and what a failure is called."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence

from gateway.settings import GatewaySettings
from shared.problems import BadGateway, DeadlineExceeded, NotFound, Problem, ServiceUnavailable
from shared.upstream import (
    BreakerPolicy,
    BreakerState,
    CircuitOpen,
    DeadlineReached,
    FirstByteTimeout,
    HttpUpstream,
    MalformedResponse,
    NotSent,
    ReadTimeout,
    Timeouts,
    UpstreamBusy,
    UpstreamDied,
    UpstreamError,
    UpstreamLimits,
    WriteTimeout,
)

BACKOFF = 0.05
BACKOFF_CAP = 2.0

#: A service that comes back is found within seconds.
BREAKER = BreakerPolicy(cooldown=0.5, cooldown_cap=4.0)

#: The upstream says itself that another try, or another upstream, may do better.
TRANSIENT = frozenset({429, 502, 503, 504})


class ServiceMissing(NotFound):
    code, title = "service_not_running", "The suite runs without this service"


class UpstreamFailed(BadGateway):
    code, title = "upstream_failed", "The service behind this path broke off"


class UpstreamSilent(DeadlineExceeded):
    code, title = "upstream_timeout", "The service behind this path did not answer in time"


class Overloaded(ServiceUnavailable):
    code, title = "overloaded", "The service behind this path has no free place"


class UpstreamAway(ServiceUnavailable):
    code, title = "upstream_unavailable", "The service behind this path cannot be reached"


class Upstreams:
    """Pools by service; one per address."""

    def __init__(
        self,
        pools: Mapping[str, Sequence[HttpUpstream]],
        probes: Mapping[str, HttpUpstream] | None = None,
    ) -> None:
        self.pools = pools
        self.probes = dict(probes or {})
        """For our own questions to services: without breaker, and never in the way of a call."""

    @classmethod
    def of(cls, settings: GatewaySettings) -> Upstreams:
        """Pools for the addresses in the settings."""
        timeouts = Timeouts(
            connect=settings.gateway_connect_seconds,
            pool=settings.gateway_waiting_seconds,
            read=settings.gateway_read_seconds,
            first_byte=settings.gateway_first_byte_seconds,
        )
        limits = UpstreamLimits(
            max_concurrency=settings.gateway_concurrency, max_waiting=settings.gateway_waiting
        )
        services = settings.upstream_addresses()
        pools = {
            service: [
                HttpUpstream(address, name=service, timeouts=timeouts, limits=limits, breaker=BREAKER)
                for address in addresses
            ]
            for service, addresses in services.items()
        }
        probes = {
            service: HttpUpstream(addresses[0], name=service, breaker=None)
            for service, addresses in services.items()
        }
        return cls(pools, probes)

    def pick(self, service: str) -> HttpUpstream:
        """The address of a service with the fewest running calls, if possible with a closed breaker.

        Raises:
            ServiceMissing: the suite runs without it.
        """
        pools = self.pools.get(service)
        if not pools:
            raise ServiceMissing(f"The service '{service}' is not part of this suite.")
        if len(pools) == 1:
            return pools[0]
        return min(pools, key=lambda pool: (pool.state is not BreakerState.CLOSED, pool.active))

    async def close(self) -> None:
        """Close every connection."""
        for pools in (*self.pools.values(), list(self.probes.values())):
            for pool in pools:
                await pool.close()


def may_repeat(error: UpstreamError, replayable: bool) -> bool:
    """Whether the same call may be sent again after `error`."""
    if isinstance(error, CircuitOpen | UpstreamBusy | DeadlineReached):
        return False
    return isinstance(error, NotSent) or replayable


async def back_off(attempt: int, deadline: float, retry_after: float | None = None) -> bool:
    """Wait with jitter before try number `attempt` (from 1); False if the deadline leaves no time."""
    pause = min(BACKOFF * 2 ** (attempt - 1), BACKOFF_CAP) * random.uniform(0.5, 1.5)
    if retry_after is not None:
        pause = max(pause, min(retry_after, BACKOFF_CAP))
    if asyncio.get_running_loop().time() + pause >= deadline:
        return False
    await asyncio.sleep(pause)
    return True


def problem_of(error: UpstreamError) -> Problem:
    """What the client is told."""
    message = f"{str(error)[:1].upper()}{str(error)[1:]}."
    if isinstance(error, UpstreamBusy):
        return Overloaded(message, retry_after=error.retry_after or 1)
    if isinstance(error, CircuitOpen):
        return UpstreamAway(message, retry_after=error.retry_after or 1)
    if isinstance(error, NotSent):
        return UpstreamAway(message, retry_after=1)
    if isinstance(error, FirstByteTimeout | ReadTimeout | WriteTimeout):
        return UpstreamSilent(message)
    if isinstance(error, DeadlineReached):
        return DeadlineExceeded("The deadline of the call has passed.")
    if isinstance(error, UpstreamDied | MalformedResponse):
        return UpstreamFailed(message)
    return UpstreamFailed("The service behind this path failed.")
