# Generated from latticework/_async/_streaming.py by sdk/generate.py; do not edit.
"""Streams of events: iterators that own their response and close it however they end."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Generic, TypeVar

import httpx2
from httpx2 import EventSource, ServerSentEvent

from latticework._calls import Call
from latticework._config import RetryPolicy
from latticework._constants import EVENT_STREAM, LAST_EVENT_ID_HEADER, MAX_EVENT_BYTES
from latticework._events import Decoder, raise_if_error
from latticework._exceptions import Interrupted, ServerError, TransportError, UnexpectedResponse
from latticework._sync._closing import Closing
from latticework._sync._io import sleep

if TYPE_CHECKING:
    from latticework._sync._client import Client

Item = TypeVar("Item")
NO_CONTENT = 204
"""How a resumable stream says that everything was already delivered."""


class Stream(Closing, Generic[Item]):
    """The items of one event stream. The request is sent when the first item is asked for.

    With `reconnect` a broken stream is taken up again after the last event that was seen
    (`Last-Event-ID`), so that no event is missed and none comes twice.

    Raises, while iterating:
        StatusError: the suite refused, or reported an error inside the stream.
        Interrupted: the stream broke off, and could not be taken up again.
    """

    def __init__(
        self,
        client: Client,
        call: Call,
        decoder: Decoder[Item],
        *,
        reconnect: RetryPolicy | None = None,
        last_event_id: str | None = None,
    ) -> None:
        self._client = client
        self._call = call.with_headers({"Accept": EVENT_STREAM, "Cache-Control": "no-store"})
        self._decoder = decoder
        self._reconnect = reconnect
        self._server_delay: float | None = None
        self._over = False
        self._iterator = self._iterate()
        self.last_event_id = last_event_id
        self.response: httpx2.Response | None = None

    def __iter__(self) -> Iterator[Item]:
        return self._iterator

    def __next__(self) -> Item:
        return next(self._iterator)

    def close(self) -> None:
        """Stop listening; the suite notices and stops the work of this stream."""
        self._iterator.close()

    def _iterate(self) -> Generator[Item]:
        failures, moved = 0, False
        while True:
            try:
                with closing(self._events()) as events:
                    for event in events:
                        failures, moved = 0, True
                        decoded = self._decoder(event)
                        self._over = decoded.complete
                        if decoded.item is not None:
                            yield decoded.item
                        if decoded.last:
                            return
                if self._over:
                    return
                raise Interrupted(f"The stream from {self._client.url} ended before its last event.")
            except (TransportError, ServerError) as error:
                pause = self._pause(error, failures, moved=moved)
                if pause is None:
                    raise
            sleep(pause)
            failures, moved = failures + 1, False

    def _pause(self, error: TransportError | ServerError, failures: int, *, moved: bool) -> float | None:
        if self._reconnect is None:
            return None
        asked = error.retry_after if isinstance(error, ServerError) else self._server_delay
        pause = self._reconnect.delay(failures, asked)
        # A connection that brought something is taken up again at once.
        return 0.0 if moved and asked is None and pause is not None else pause

    def _events(self) -> Generator[ServerSentEvent]:
        call = self._call
        if self.last_event_id:
            call = call.with_headers({LAST_EVENT_ID_HEADER: self.last_event_id})
        with self._client.open(call) as response:
            self.response = response
            if response.status_code == NO_CONTENT:
                self._over = True
                return
            try:
                for event in EventSource(response, MAX_EVENT_BYTES):
                    if event.retry is not None:
                        self._server_delay = event.retry / 1000
                    if not event.data:
                        continue
                    raise_if_error(event, response.headers)
                    self.last_event_id = event.id or self.last_event_id
                    yield event
            except httpx2.SSEError as error:
                raise UnexpectedResponse(f"{response.request.url}: {error}") from error
            except httpx2.TransportError as error:
                raise self._client._transport_error(error) from error
