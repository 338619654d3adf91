"""What one proxied call carries through its handlers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope

from gateway.auth import Authenticator, Caller
from gateway.limits import Admission, Limiter
from gateway.prices import PriceTable
from gateway.proxy.reply import Reply, bearer
from gateway.proxy.telemetry import GatewayMetrics
from gateway.proxy.upstreams import Upstreams
from gateway.routing import Route
from gateway.server import CONNECTION
from gateway.settings import GatewaySettings
from shared.principal import Principal, PrincipalSigner
from shared.problems import Forbidden, PayloadTooLarge


@dataclass(slots=True)
class Front:
    """Everything the hot path works with; made once."""

    settings: GatewaySettings
    callers: Authenticator
    limiter: Limiter
    upstreams: Upstreams
    prices: PriceTable
    signer: PrincipalSigner
    metrics: GatewayMetrics


@dataclass(slots=True)
class Call:
    """One request on its way through."""

    front: Front
    scope: Scope
    receive: Receive
    reply: Reply
    route: Route
    headers: dict[bytes, bytes]
    request_id: str
    own_id: bool
    """The request id is ours, so it is unique."""
    started: float
    tenant_class: str = "unknown"
    gone: bool = False
    """The client hung up; its task is being cancelled."""

    @property
    def call_id(self) -> str:
        """Names this call's reservation; a request id from outside may come twice."""
        return self.request_id if self.own_id else f"{self.request_id}:{time.time_ns()}"

    async def caller(self) -> Caller:
        """Who calls; refuses one without the route's scope.

        Raises:
            Unauthorized, Forbidden
        """
        token = bearer(self.headers)
        callers = self.front.callers
        caller = (callers.find(token) if token else None) or await callers.get(token)
        self.tenant_class = caller.key.tenant_class
        scope = self.route.scope
        if scope not in caller.scopes and "admin" not in caller.scopes:
            held = ", ".join(sorted(caller.scopes)) or "none"
            raise Forbidden(f"This needs the scope '{scope}'; the key has: {held}.")
        return caller

    def principal_token(self, caller: Caller) -> bytes:
        """The Authorization value with which the service is called."""
        key, place = caller.key, (self.route.service, caller.scopes)
        stamp = key.stamps.get(place)
        if stamp is None:
            principal = Principal(key.id, key.tenant, caller.scopes, budget_id=key.budget_id)
            stamp = self.front.signer.stamp(principal, audience=self.route.service)
            if len(key.stamps) < 64:  # Tokens of services may narrow the scopes in many ways.
                key.stamps[place] = stamp
        return b"Bearer " + stamp.sign(self.request_id)

    def show_limits(self, admission: Admission) -> None:
        """Tell the client what its key has left, in OpenAI's header names."""
        key, extra = admission.key, self.reply.extra
        left = admission.requests_left
        if left >= 0:
            extra.append((b"x-ratelimit-limit-requests", b"%d" % key.requests_per_minute))
            extra.append((b"x-ratelimit-remaining-requests", b"%d" % left))
        left = admission.tokens_left
        if left >= 0:
            extra.append((b"x-ratelimit-limit-tokens", b"%d" % key.tokens_per_minute))
            extra.append((b"x-ratelimit-remaining-tokens", b"%d" % left))

    def cancel_when_gone(self, *, body_read: bool = True) -> asyncio.Task[None] | None:
        """From now on a client that leaves cancels the running task and sets `gone`.

        Under our own server the connection tells. Under any other one a task waits for the
        disconnect message, for which the body must have been read; `stop_watching` wants it back.
        """
        connection: Any = self.scope.get(CONNECTION)
        # Naming the loop saves a system call.
        task = asyncio.current_task(None if connection is None else connection.loop)
        assert task is not None

        def on_gone() -> None:
            if not self.reply.complete:
                self.gone = True
                task.cancel()

        if connection is not None:
            connection.on_gone = on_gone
            return None
        return asyncio.create_task(self._watch(on_gone)) if body_read else None

    def stop_watching(self, watcher: asyncio.Task[None] | None) -> None:
        """A client that leaves now changes nothing any more."""
        connection: Any = self.scope.get(CONNECTION)
        if connection is not None:
            connection.on_gone = None
        if watcher is not None:
            watcher.cancel()

    async def _watch(self, on_gone: Callable[[], None]) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass
        on_gone()

    def break_off(self) -> None:
        """End a started answer so that the client cannot take it for a whole one."""
        connection: Any = self.scope.get(CONNECTION)
        if connection is not None:
            connection.break_off()


class BodyTooLarge(PayloadTooLarge):
    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes.", headers={"Connection": "close"})


class ClientLeft(Exception):
    """The client hung up before its body was whole."""


async def pieces_of_body(receive: Receive, limit: int) -> AsyncIterator[bytes]:
    """The request's body as it comes, counted.

    Raises:
        BodyTooLarge, ClientLeft
    """
    seen = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        seen += len(piece)
        if seen > limit:
            raise BodyTooLarge(limit)
        if piece:
            yield piece
