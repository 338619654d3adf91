"""What can go wrong on the protocol's paths, in the words OpenAI's clients expect."""

from __future__ import annotations

import re
from typing import Any

import orjson

from shared.problems import BadGateway, BadRequest, FieldError, NotFound, Problem, ServiceUnavailable


class ModelNotFound(NotFound):
    """No engine offers the model, or none the caller may see."""

    code, title = "model_not_found", "There is no such model"

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The model `{model[:128]}` does not exist or you do not have access to it.",
            errors=[FieldError(location="body.model", message="unknown model")],
        )


class ContextLengthExceeded(BadRequest):
    code, title = "context_length_exceeded", "The prompt is too long for the model"


class InvalidSchema(BadRequest):
    code, title = "invalid_json_schema", "The JSON schema cannot be enforced"


class UnsupportedParameter(BadRequest):
    code, title = "unsupported_parameter", "The model does not support this parameter"


class EngineDown(ServiceUnavailable):
    code, title = "engine_unavailable", "The model is not running now"


class EngineFailed(BadGateway):
    code, title = "engine_failed", "The model broke off"


def refused(kind: type[Problem], param: str, message: str) -> Problem:
    """A problem about one parameter of the body."""
    return kind(message, errors=[FieldError(location=f"body.{param}", message=message)])


_TOO_LONG = re.compile(r"maximum context length|context size|exceeds the model's|max_model_len", re.I)


def from_engine(status: int, body: bytes, prompt_param: str) -> Problem:
    """The problem for an error answer of an engine.

    4xx answers speak about the request and are passed on; 5xx answers and refused credentials are
    our trouble, and what the engine said stays in the log.
    """
    error = _error_object(body)
    message = str(error.get("message") or "")[:2000]
    if status == 429:
        return EngineDown(f"The model is overloaded. {message}".strip(), retry_after=1.0)
    if status >= 500 or status in (401, 403):
        return EngineFailed(f"The engine answered with status {status}.")
    too_long = (
        error.get("type") == "exceed_context_size_error" or error.get("code") == "context_length_exceeded"
    )
    if too_long or _TOO_LONG.search(message):
        return refused(ContextLengthExceeded, prompt_param, message or "The prompt is too long.")
    problem = BadRequest(message or f"The engine refused the request with status {status}.")
    param, code = error.get("param"), error.get("code")
    if isinstance(param, str) and param:
        problem.errors = [FieldError(location=f"body.{param}", message=message)]
    problem.instance_code = code if isinstance(code, str) and code else "invalid_request"
    return problem


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {"message": body[:500].decode(errors="replace")}
    error = document.get("error", document) if isinstance(document, dict) else {}
    return error if isinstance(error, dict) else {"message": str(error)}
