"""A gateway double: answers chat completions from a script keyed by words of the question."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route


@dataclass
class Script:
    """What the model says about one question."""

    program: str
    sql: str


@dataclass
class ScriptedGateway:
    """Replies with the program or the SQL of the first script whose words the prompt holds."""

    scripts: dict[str, Script]
    bodies: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    refuse: bool = False

    @property
    def app(self) -> Starlette:
        """The ASGI application."""
        return Starlette(routes=[Route("/v1/chat/completions", self._chat, methods=["POST"])])

    async def _chat(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.bodies.append(body)
        self.tokens.append(request.headers.get("authorization", ""))
        if self.refuse:
            error = {"message": "the budget is spent", "type": "budget", "code": "budget_exceeded"}
            return JSONResponse({"error": error}, status_code=402)
        first, *_, last = asked = [str(message["content"]) for message in body["messages"]]
        script = next(value for words, value in self.scripts.items() if words in "\n".join(asked))
        # A small model is asked for SQL in the conversation in which it wrote the program.
        wants_python = "Python" in first and not last.endswith("SQL")
        text = f"```python\n{script.program}\n```" if wants_python else f"```sql\n{script.sql}\n```"
        return JSONResponse(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
                ],
                "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
            }
        )
