"""Everything this package raises, by what a caller can do about it.

LatticeworkError
├── ConfigurationError          something given is wrong: mend it
│   ├── NoAddress               no suite is known: start one, or give its address
│   └── NoKey                   a suite is known, but no key for it
├── TransportError              no complete answer came
│   ├── NotRunning              nothing accepts connections there: start it, or mend the address
│   ├── RequestTimeout          connect, read, write or pool: try again, or allow more time
│   └── Interrupted             the connection broke, perhaps in the middle of an answer
├── UnexpectedResponse          the answer is not what the API promises: versions differ
├── StatusError                 the suite refused or failed; carries the fields of the problem
│   ├── BadRequest              400
│   ├── Unauthorized            401
│   ├── BudgetExceeded          402
│   ├── Forbidden               403
│   ├── NotFound                404
│   ├── Conflict                409
│   ├── PayloadTooLarge         413
│   ├── UnsupportedMediaType    415
│   ├── Unprocessable           422
│   ├── TooManyRequests         429
│   └── ServerError             every 5xx
│       ├── ServiceUnavailable  503
│       └── DeadlineExceeded    504
└── JobError                    queued work did not succeed
    ├── JobFailed
    ├── JobCancelled
    └── WaitTimeout             it did not end while we waited; it goes on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from latticework._constants import REQUEST_ID_HEADER


class LatticeworkError(Exception):
    """Root of all errors of this package."""


class ConfigurationError(LatticeworkError):
    """An address, key, option or file that cannot be right."""


class NoAddress(ConfigurationError):
    """The client does not know whom to ask."""


class NoKey(ConfigurationError):
    """The client does not know as whom to ask."""


class TransportError(LatticeworkError):
    """No complete answer came back."""


class NotRunning(TransportError):
    """Nothing accepts connections at the address."""


class RequestTimeout(TransportError):
    """One of the four timeouts passed; the message names it."""


class Interrupted(TransportError):
    """The connection broke before the answer was complete."""


class UnexpectedResponse(LatticeworkError):
    """An answer the API does not promise, such as a page of some proxy in between."""


class FieldError(NamedTuple):
    """One offending field of the request."""

    location: str
    message: str


class StatusError(LatticeworkError):
    """The suite answered with a problem.

    Attributes:
        status: HTTP status; the status of the problem when it came inside a stream.
        code: stable, machine-readable name of the problem.
        type, title, detail, instance: as in RFC 9457.
        errors: the offending fields.
        request_id: what support needs.
        headers: of the response.
        retry_after: seconds the suite asked to wait, if it did.
    """

    def __init__(
        self,
        *,
        status: int,
        code: str,
        title: str,
        detail: str,
        type: str = "about:blank",
        instance: str | None = None,
        errors: Sequence[FieldError] = (),
        request_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        document: Mapping[str, Any] | None = None,
    ) -> None:
        self.status = status
        self.code = code
        self.title = title
        self.detail = detail
        self.type = type
        self.instance = instance
        self.errors = tuple(errors)
        self.request_id = request_id
        self.headers: Mapping[str, str] = headers or {}
        self.retry_after = retry_after
        self.document: Mapping[str, Any] = document or {}
        super().__init__(str(self))

    def __str__(self) -> str:
        marks = ", ".join(mark for mark in (str(self.status), self.code, self.request_id) if mark)
        return f"{self.detail} ({marks})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.__dict__))


def _rebuild(kind: type[StatusError], state: Mapping[str, Any]) -> StatusError:
    return kind(**state)


class BadRequest(StatusError):
    """400."""


class Unauthorized(StatusError):
    """401: the key is missing, wrong, expired or revoked."""


class BudgetExceeded(StatusError):
    """402: the call could cost more than the budget has left."""


class Forbidden(StatusError):
    """403: the key lacks the scope."""


class NotFound(StatusError):
    """404."""


class Conflict(StatusError):
    """409: the request contradicts the present state."""


class PayloadTooLarge(StatusError):
    """413."""


class UnsupportedMediaType(StatusError):
    """415."""


class Unprocessable(StatusError):
    """422: `errors` names the offending fields."""


class TooManyRequests(StatusError):
    """429: `retry_after` says when to come back."""


class ServerError(StatusError):
    """Any 5xx."""


class ServiceUnavailable(ServerError):
    """503: cannot do this now; `retry_after` says when to come back."""


class DeadlineExceeded(ServerError):
    """504."""


class JobError(LatticeworkError):
    """Queued work did not succeed; `job` is what is last known of it, or of what it was to prepare."""

    def __init__(self, message: str, job: Any) -> None:
        super().__init__(message)
        self.job = job


class JobFailed(JobError):
    """The job ended `failed`; its problem is in the message and in `job.problem`."""


class JobCancelled(JobError):
    """The job ended `cancelled`."""


class WaitTimeout(JobError):
    """The job had not ended when the waiting time was over. It goes on without us."""


_BY_STATUS: dict[int, type[StatusError]] = {
    400: BadRequest,
    401: Unauthorized,
    402: BudgetExceeded,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
    422: Unprocessable,
    429: TooManyRequests,
    503: ServiceUnavailable,
    504: DeadlineExceeded,
}


def problem_from(
    body: object, *, status: int, headers: Mapping[str, str], retry_after: float | None = None
) -> StatusError:
    """The exception for an error body: a problem document, OpenAI's error object, or anything else.

    Args:
        body: the parsed JSON, or the text when it was not JSON.
        status: of the response; a status inside `body` wins, since streams fail after a 200.
    """
    document = body if isinstance(body, Mapping) else {}
    error = document.get("error")
    if isinstance(error, Mapping):
        document = _from_openai(error)
    status = _status_of(document, status)
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else StatusError)
    title = str(document.get("title") or f"HTTP {status}")
    detail = document.get("detail") or (body if isinstance(body, str) and len(body) < 300 else "") or title
    return kind(
        status=status,
        code=str(document.get("code") or ""),
        title=title,
        detail=str(detail).strip(),
        type=str(document.get("type") or "about:blank"),
        instance=document.get("instance"),
        errors=_field_errors(document.get("errors")),
        request_id=document.get("request_id") or headers.get(REQUEST_ID_HEADER),
        headers=headers,
        retry_after=retry_after,
        document=document,
    )


def _from_openai(error: Mapping[str, Any]) -> dict[str, Any]:
    message = str(error.get("message") or "")
    kind = str(error.get("type") or "")
    parameter = error.get("param")
    return {
        "type": kind,
        "title": kind.replace("_", " ").capitalize(),
        "detail": message,
        "code": error.get("code") or kind,
        "status": error.get("status"),
        "errors": [{"location": parameter, "message": message}] if parameter else [],
    }


def _status_of(document: Mapping[str, Any], status: int) -> int:
    inside = document.get("status")
    if isinstance(inside, int) and 400 <= inside < 600:
        return inside
    # An error event in a stream that began with 200 and says nothing else is the server's failure.
    return status if status >= 400 else 500


def _field_errors(errors: object) -> list[FieldError]:
    if not isinstance(errors, Sequence) or isinstance(errors, str):
        return []
    return [
        FieldError(str(error.get("location", "")), str(error.get("message", "")))
        for error in errors
        if isinstance(error, Mapping)
    ]
