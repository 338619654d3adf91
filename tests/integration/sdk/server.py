"""A small real server in a thread: what the client meets on the network, without the suite."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]


class ScriptedServer:
    """Answers each request with the next handler of its path (the last one again and again)."""

    def __init__(self) -> None:
        self.routes: dict[tuple[str, str], list[Handler]] = {}
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.url = ""

    def reset(self) -> None:
        """Forget everything but the address."""
        self.routes, self.requests, self.bodies = {}, [], []

    def on(self, method: str, path: str, *handlers: Handler) -> None:
        """Script `method path`."""
        self.routes[method, path] = list(handlers)

    def answer(self, method: str, path: str, *answers: Response) -> None:
        """Script fixed answers."""

        def fixed(response: Response) -> Handler:
            async def handler(request: Request) -> Response:
                return response

            return handler

        self.on(method, path, *(fixed(response) for response in answers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        request = Request(scope, receive)
        self.requests.append(request)
        self.bodies.append(await request.body())
        handlers = self.routes.get((request.method, request.url.path))
        if not handlers:
            response: Response = JSONResponse(problem(404, "not_found"), status_code=404)
        else:
            handler = handlers.pop(0) if len(handlers) > 1 else handlers[0]
            response = await handler(request)
        await response(scope, receive, send)


def problem(status: int, code: str, detail: str = "It went wrong.", **more: object) -> dict[str, object]:
    """A problem document."""
    return {
        "type": f"urn:latticework:problem:{code}",
        "title": "A problem",
        "status": status,
        "detail": detail,
        "instance": "/somewhere",
        "code": code,
        "errors": [],
        "request_id": "req_1",
        **more,
    }


@contextmanager
def serving(
    app: Callable[[Scope, Receive, Send], Awaitable[None]], *, lifespan: Literal["on", "off"] = "off"
) -> Iterator[str]:
    """Run an ASGI application on a free port; yields its address."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, lifespan=lifespan, log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve(sockets=[listener])), name="scripted-server", daemon=True
    )
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the test server did not start")
            threading.Event().wait(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
