"""The ASGI application every request meets first: `/v1/*` goes through, the rest to management."""

from __future__ import annotations

import asyncio
import time

from fastapi import FastAPI
from starlette.datastructures import State
from starlette.types import Receive, Scope, Send

from gateway.proxy import services
from gateway.proxy.context import Call, ClientLeft, Front
from gateway.proxy.models import Models
from gateway.proxy.reply import Reply, given_request_id, new_request_id
from gateway.public import PublicPages
from gateway.routing import find_route
from gateway.server import BEGUN
from shared.problems import InternalError, Problem
from shared.telemetry import logger

log = logger(__name__)


class FrontDoor:
    """Stands around the management application, so that a proxied call meets nothing of it."""

    def __init__(self, app: FastAPI, front: Front, pages: PublicPages) -> None:
        self.app = app
        self.front = front
        self.pages = pages
        self.models = Models(front.settings.gateway_held_bytes)

    @property
    def state(self) -> State:
        """The management application's state."""
        return self.app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = find_route(scope["path"]) if scope["type"] == "http" else None
        if route is None:
            await self._rest(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = given_request_id(headers)
        request_id = given or new_request_id()
        reply = Reply(scope, send, request_id)
        # From the first byte on, not from here: what waited before us was waiting, too.
        started: float = scope.get(BEGUN) or time.perf_counter()
        call = Call(self.front, scope, receive, reply, route, headers, request_id, given is None, started)
        metrics = self.front.metrics
        metrics.in_flight += 1
        try:
            if route.metered:
                await self.models.handle(call)
            else:
                await services.handle(call)
        except Problem as problem:
            await self._answer(call, problem)
        except ClientLeft:
            pass
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("request failed", path=scope["path"], request_id=request_id)
            await self._answer(
                call,
                InternalError("Something went wrong on our side; the log has it under this request id."),
            )
        finally:
            metrics.in_flight -= 1
            seconds = time.perf_counter() - started
            metrics.request(route.service, call.tenant_class, reply.status, seconds)

    async def _rest(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            content = await self.pages.answer(scope["path"])
            if content is not None:
                await self.pages.send(content, scope, send)
                return
        await self.app(scope, receive, send)

    async def _answer(self, call: Call, problem: Problem) -> None:
        if call.reply.status:
            call.break_off()
        else:
            await call.reply.problem(problem)
