"""What the events of a stream mean, free of any transport."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, TypeVar

from httpx2 import ServerSentEvent
from pydantic import TypeAdapter, ValidationError

from latticework._exceptions import UnexpectedResponse, problem_from

Item = TypeVar("Item")
DONE = "[DONE]"


class Decoded(NamedTuple, Generic[Item]):
    """What one event gave.

    Attributes:
        item: for the caller, or None.
        last: nothing can follow; stop listening.
        complete: if the stream ends here, nothing is missing.
    """

    item: Item | None
    last: bool = False
    complete: bool = False


Decoder = Callable[[ServerSentEvent], Decoded[Item]]


def chunks(kind: type[Item]) -> Decoder[Item]:
    """Decoder of OpenAI's streams: unnamed events of one kind, then `[DONE]`."""
    adapter = TypeAdapter(kind)

    def decode(event: ServerSentEvent) -> Decoded[Item]:
        if event.data == DONE:
            return Decoded(None, last=True)
        return Decoded(parse(adapter, event.data))

    return decode


def parse(adapter: TypeAdapter[Item], data: str | bytes) -> Item:
    """Validated data.

    Raises:
        UnexpectedResponse: the data is not what this version of the API promises.
    """
    try:
        return adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise UnexpectedResponse(
            f"The answer differs from what this client knows ({place}: {first['msg']}); "
            "client and suite may be of different versions."
        ) from error


def raise_if_error(event: ServerSentEvent, headers: Mapping[str, str]) -> None:
    """An error inside a stream raises just what the same error as a status raises.

    Raises:
        StatusError: the event is named `error`, or its data is OpenAI's error object.
    """
    if event.event != "error" and not event.data.startswith('{"error"'):
        return
    try:
        body = json.loads(event.data)
    except ValueError:
        body = event.data
    raise problem_from(body, status=200, headers=headers)
