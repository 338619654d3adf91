"""Errors a caller can act on, rendered as RFC 9457 problem documents.

A `Problem` says what went wrong, where, and how to mend it. Subclasses fix the status and the
machine-readable `code`; the instance carries the sentence for this occurrence. The module knows the
two shapes that cross the wire (problem documents, and OpenAI's error object on OpenAI's paths) and
nothing of frameworks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field

PROBLEM_MEDIA_TYPE = "application/problem+json"

OPENAI_PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models")
"""Paths that speak OpenAI's protocol exactly, errors included."""


class FieldError(BaseModel):
    """One offending field: `location` is a dotted path such as `body.rows`."""

    location: str
    message: str


class ProblemDocument(BaseModel):
    """The body of every error answer, RFC 9457 with our extension members."""

    type: str = Field(
        description="URN of the kind of problem", examples=["urn:latticework:problem:not_found"]
    )
    title: str
    status: int
    detail: str
    instance: str | None = None
    code: str
    errors: list[FieldError] = Field(default_factory=list)
    request_id: str | None = None


class Problem(Exception):
    """Root of all errors that reach a caller."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        errors: Iterable[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        code: str | None = None,
    ) -> None:
        self.detail = detail or self.title
        self.errors: Sequence[FieldError] = tuple(errors)
        self.headers: dict[str, str] = dict(headers or {})
        self.instance_code = code or self.code
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after)))
        super().__init__(self.detail)

    def document(self, *, instance: str | None = None, request_id: str | None = None) -> dict[str, Any]:
        """The problem document as plain JSON data."""
        return ProblemDocument(
            type=f"urn:latticework:problem:{self.instance_code}",
            title=self.title,
            status=self.status,
            detail=self.detail,
            instance=instance,
            code=self.instance_code,
            errors=list(self.errors),
            request_id=request_id,
        ).model_dump()

    def openai_document(self) -> dict[str, Any]:
        """The same problem as the error object OpenAI's clients parse."""
        return {
            "error": {
                "message": self.detail,
                "type": _OPENAI_TYPES.get(
                    self.status, "invalid_request_error" if self.status < 500 else "server_error"
                ),
                "param": self.errors[0].location.removeprefix("body.") if self.errors else None,
                "code": self.instance_code,
            }
        }

    def body_for(self, path: str, *, request_id: str | None = None) -> tuple[dict[str, Any], str]:
        """Body and media type for a request to `path`: OpenAI's shape on OpenAI's paths."""
        if is_openai_path(path):
            return self.openai_document(), "application/json"
        return self.document(instance=path, request_id=request_id), PROBLEM_MEDIA_TYPE


_OPENAI_TYPES = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    429: "rate_limit_error",
}


def is_openai_path(path: str) -> bool:
    """Whether `path` belongs to OpenAI's protocol."""
    return any(path == prefix or path.startswith(prefix + "/") for prefix in OPENAI_PATHS)


class BadRequest(Problem):
    status, code, title = 400, "bad_request", "The request cannot be understood"


class Unauthorized(Problem):
    status, code, title = 401, "unauthorized", "No valid credentials were given"

    def __init__(self, detail: str | None = None, **options: Any) -> None:
        super().__init__(detail, **options)
        self.headers.setdefault("WWW-Authenticate", "Bearer")


class BudgetExceeded(Problem):
    """402, not 429: clients retry a 429, and a spent budget does not mend by waiting."""

    status, code, title = 402, "insufficient_quota", "The budget does not cover this call"


class Forbidden(Problem):
    status, code, title = 403, "forbidden", "The credentials do not allow this"


class NotFound(Problem):
    status, code, title = 404, "not_found", "There is no such thing"


class MethodNotAllowed(Problem):
    status, code, title = 405, "method_not_allowed", "This path does not take that method"


class NotAcceptable(Problem):
    status, code, title = 406, "not_acceptable", "None of the accepted media types can be produced"


class Conflict(Problem):
    status, code, title = 409, "conflict", "The request contradicts the present state"


class LengthRequired(Problem):
    status, code, title = 411, "length_required", "The request must say how long its body is"


class PayloadTooLarge(Problem):
    status, code, title = 413, "payload_too_large", "The body is larger than allowed"


class UnsupportedMediaType(Problem):
    status, code, title = 415, "unsupported_media_type", "The media type is not supported"


class Unprocessable(Problem):
    status, code, title = 422, "invalid_request", "The request is well formed but not valid"


class TooManyRequests(Problem):
    status, code, title = 429, "rate_limit_exceeded", "Too many requests"


class InternalError(Problem):
    """What an unforeseen exception becomes; the log has the rest under the request id."""


class BadGateway(Problem):
    status, code, title = 502, "bad_gateway", "An upstream answered nonsense or went away"


class ServiceUnavailable(Problem):
    status, code, title = 503, "unavailable", "The service cannot do this now"


class DeadlineExceeded(Problem):
    status, code, title = 504, "deadline_exceeded", "The work did not finish in time"


_BY_STATUS: dict[int, type[Problem]] = {
    kind.status: kind
    for kind in (
        BadRequest, Unauthorized, BudgetExceeded, Forbidden, NotFound, MethodNotAllowed, NotAcceptable,
        Conflict, LengthRequired, PayloadTooLarge, UnsupportedMediaType, Unprocessable, TooManyRequests,
        InternalError, BadGateway, ServiceUnavailable, DeadlineExceeded,
    )
}  # fmt: skip


def from_status(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Problem:
    """The problem for a bare HTTP status, as frameworks raise them."""
    kind = _BY_STATUS.get(status, BadRequest if status < 500 else InternalError)
    return kind(detail, headers=headers)


def responses(*kinds: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI `responses` entries documenting that a route may answer with these problems."""
    entries: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        known = entries.get(kind.status)
        description = f"{kind.title} (`{kind.code}`)"
        if known:
            description = f"{known['description']}; {description}"
        entries[kind.status] = {
            "description": description,
            "content": {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}},
        }
    return entries
