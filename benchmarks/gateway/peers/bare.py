"""What a bare ASGI proxy does whatever its client is: read the body, begin, end."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

FORWARDED = (b"content-type", b"authorization")


class BareProxy(ABC):
    """Forwards every request; parses the body once, as everybody who routes must."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if body:
            orjson.loads(body)
        await self.forward(scope, body, send)

    @abstractmethod
    async def start(self) -> None:
        """Make the client."""

    @abstractmethod
    async def stop(self) -> None:
        """Close the client."""

    @abstractmethod
    async def forward(self, scope: Scope, body: bytes, send: Send) -> None:
        """Send the request on and the answer back."""

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            stopping = message["type"] == "lifespan.shutdown"
            await (self.stop() if stopping else self.start())
            await send({"type": f"{message['type']}.complete"})
            if stopping:
                return
