"""Real HTTP servers inside of the test process: the service itself, and a scripted vision model."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from shared.app import free_port

Script = Callable[[list[dict[str, Any]]], str]
"""Chat messages in, the reply's text out."""


@contextlib.contextmanager
def serving(app: Any, port: int | None = None) -> Iterator[str]:
    """Serve an ASGI application on `port`, by default a free one; yields its address."""
    port = port or free_port()
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, lifespan="on")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the server did not start")
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


class ScriptedVisionModel:
    """An OpenAI-compatible endpoint that looks at nothing: a script answers the messages."""

    def __init__(self) -> None:
        self.script: Script = lambda messages: "[[nothing]]"
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str] = []
        self.failure: tuple[int, dict[str, Any]] | None = None
        self.app = FastAPI()
        self.app.add_api_route("/v1/chat/completions", self._complete, methods=["POST"])

    async def _complete(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.requests.append(body)
        self.authorizations.append(request.headers.get("authorization", ""))
        if self.failure is not None:
            status, document = self.failure
            return JSONResponse(document, status_code=status)
        text = self.script(body["messages"])
        return JSONResponse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 0,
                "model": body["model"],
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": "stop",
                    }
                ],
                "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
            }
        )

    def reset(self) -> None:
        """Forget requests, script and failure."""
        self.requests.clear()
        self.authorizations.clear()
        self.failure = None
        self.script = lambda messages: "[[nothing]]"
