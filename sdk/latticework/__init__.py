"""The Python client of a Latticework suite.

    from latticework import Client

    with Client() as client:                       # finds the local suite; or Client(url, key)
        for chunk in client.chat.stream("Why is the sky blue?"):
            print(chunk.text, end="")
        client.openai                              # the stock OpenAI client, ready

Everything public is in `__all__`; modules with a leading underscore are not.
"""

from latticework._async._client import AsyncClient
from latticework._async._paging import AsyncPages
from latticework._async._streaming import AsyncStream
from latticework._chat import ChatChunk, ChatReply, ChatUsage
from latticework._config import Connection, RetryPolicy, Timeouts
from latticework._exceptions import (
    BadRequest,
    BudgetExceeded,
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    FieldError,
    Forbidden,
    Interrupted,
    JobCancelled,
    JobError,
    JobFailed,
    LatticeworkError,
    NoAddress,
    NoKey,
    NotFound,
    NotRunning,
    PayloadTooLarge,
    RequestTimeout,
    ServerError,
    ServiceUnavailable,
    StatusError,
    TooManyRequests,
    TransportError,
    Unauthorized,
    UnexpectedResponse,
    Unprocessable,
    UnsupportedMediaType,
    WaitTimeout,
)
from latticework._files import FileSource, Upload
from latticework._jobs import JobEvent
from latticework._paging import Page
from latticework._raw import RawResponse
from latticework._sql import QuestionEvent
from latticework._sync._client import Client
from latticework._sync._paging import Pages
from latticework._sync._streaming import Stream
from latticework._version import __version__
from latticework._vision import LookEvent, Rendering

__all__ = [
    "AsyncClient",
    "AsyncPages",
    "AsyncStream",
    "BadRequest",
    "BudgetExceeded",
    "ChatChunk",
    "ChatReply",
    "ChatUsage",
    "Client",
    "ConfigurationError",
    "Conflict",
    "Connection",
    "DeadlineExceeded",
    "FieldError",
    "FileSource",
    "Forbidden",
    "Interrupted",
    "JobCancelled",
    "JobError",
    "JobEvent",
    "JobFailed",
    "LatticeworkError",
    "LookEvent",
    "NoAddress",
    "NoKey",
    "NotFound",
    "NotRunning",
    "Page",
    "Pages",
    "PayloadTooLarge",
    "QuestionEvent",
    "RawResponse",
    "Rendering",
    "RequestTimeout",
    "RetryPolicy",
    "ServerError",
    "ServiceUnavailable",
    "StatusError",
    "Stream",
    "Timeouts",
    "TooManyRequests",
    "TransportError",
    "Unauthorized",
    "UnexpectedResponse",
    "Unprocessable",
    "UnsupportedMediaType",
    "Upload",
    "WaitTimeout",
    "__version__",
]
