"""One call to the suite as a value, before any transport is involved."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any
from urllib.parse import quote

from latticework._config import Timeouts
from latticework._constants import JSON
from latticework._files import Upload

Parameter = str | int | float | bool | None
Parameters = Mapping[str, Parameter | Sequence[str]]


@dataclass(frozen=True, slots=True)
class Call:
    """What to send.

    Attributes:
        path: below the address, beginning with a slash, already quoted (see `path_of`).
        parameters: of the query; None values are left out.
        body: JSON data.
        form: fields of a multipart body, next to `uploads`.
        uploads: files of a multipart body by field name.
        content: one file as the whole body.
        idempotency_key: makes a POST safe to send twice.
        replayable: whether sending it twice does no harm; None: decided by method and key.
        timeouts: instead of the client's.
    """

    method: str
    path: str
    parameters: Parameters = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    form: Mapping[str, str] = field(default_factory=dict)
    uploads: Sequence[tuple[str, Upload]] = ()
    content: Upload | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    accept: str = JSON
    idempotency_key: str | None = None
    replayable: bool | None = None
    timeouts: Timeouts | None = None

    @property
    def safe_to_repeat(self) -> bool:
        """Whether a second sending cannot do the work twice."""
        if not all(upload.rewindable for upload in self._files()):
            return False
        if self.replayable is not None:
            return self.replayable
        return self.method in ("GET", "HEAD", "PUT", "DELETE") or self.idempotency_key is not None

    @property
    def can_be_resent(self) -> bool:
        """Whether the bytes of the body can be produced again."""
        return all(upload.rewindable for upload in self._files())

    def rewind(self) -> None:
        """Put every file back to where it was, before a retry."""
        for upload in self._files():
            upload.rewind()

    def close(self) -> None:
        """Close the files that we opened."""
        for upload in self._files():
            upload.close()

    def with_headers(self, headers: Mapping[str, str]) -> Call:
        """The same call with more headers."""
        return replace(self, headers={**self.headers, **headers})

    def with_parameters(self, parameters: Parameters) -> Call:
        """The same call with more query parameters."""
        return replace(self, parameters={**self.parameters, **parameters})

    def _files(self) -> list[Upload]:
        return [upload for _, upload in self.uploads] + ([self.content] if self.content else [])


def get(path: str, **parameters: Parameter | Sequence[str]) -> Call:
    """A GET with its query."""
    return Call("GET", path, parameters)


def post(path: str, body: Mapping[str, Any] | None = None, *, replayable: bool | None = None) -> Call:
    """A POST of JSON that creates nothing; its repetition does no harm if `replayable`.

    Fields that are None are left out, so that the server's defaults apply; so in `create`.
    """
    return Call("POST", path, body=None if body is None else given(body), replayable=replayable)


def create(path: str, body: Mapping[str, Any] | None, idempotency_key: str | None = None) -> Call:
    """A POST that creates something: it always has an idempotency key, kept over its retries."""
    key = idempotency_key or new_idempotency_key()
    return Call("POST", path, body=None if body is None else given(body), idempotency_key=key)


def new_idempotency_key() -> str:
    """A fresh key for one logical operation."""
    return f"sdk-{secrets.token_urlsafe(18)}"


class Unset(Enum):
    """Told apart from None where None means something."""

    UNSET = "unset"


UNSET = Unset.UNSET


def path_of(template: str, *values: str) -> str:
    """Fill `{}` places of a path with quoted values: no value can leave its segment.

    Raises:
        ValueError: a value is empty or a dot segment, which would address another resource.
    """
    for value in values:
        if value in ("", ".", ".."):
            raise ValueError(f"{value!r} is not an id")
    return template.format(*(quote(value, safe="") for value in values))


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that are not None: what is left out takes the server's default."""
    return {name: value for name, value in values.items() if value is not None}
