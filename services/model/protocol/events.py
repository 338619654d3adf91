"""Server-sent events of OpenAI's streams: cut out of bytes, and written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import orjson

from shared.problems import Problem

DONE = b"[DONE]"
DONE_EVENT = b"data: [DONE]\n\n"
#: More than any chunk of a model; a stream without event ends is nonsense.
MAX_EVENT = 16 << 20
#: Holds the last two events of a stream, of which one may carry its usage.
TAIL = 4096
_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')


class EventReader:
    """Cuts a stream of bytes into the data of its events, wherever the pieces begin and end.

    Lines end as our own engines end them, with a bare line feed.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The data of every event that is complete with `piece`.

        Raises:
            ValueError: an event is longer than any model writes.
        """
        self._rest += piece
        while True:
            event, end, rest = self._rest.partition(b"\n\n")
            if not end:
                break
            self._rest = rest
            lines = [line[5:].lstrip() for line in event.split(b"\n") if line.startswith(b"data:")]
            if lines:
                yield b"\n".join(lines)
        if len(self._rest) > MAX_EVENT:
            raise ValueError("an event of the stream does not end")


class DoneWatcher:
    """Sees whether a stream that is passed on unread has come to its proper end."""

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, piece: bytes) -> None:
        """Remember the end of the stream so far."""
        self._tail = piece[-TAIL:] if len(piece) >= TAIL else (self._tail + piece)[-TAIL:]

    @property
    def done(self) -> bool:
        """Whether the last event was `[DONE]`."""
        return self._tail.rstrip().endswith(DONE_EVENT.rstrip())

    @property
    def tokens(self) -> int:
        """Tokens of the answer as its usage counts them, 0 where the engine was not asked for it."""
        counted = _TOKENS.findall(self._tail)
        return int(counted[-1]) if counted else 0


def event(chunk: dict[str, Any]) -> bytes:
    """One chunk as an event."""
    return b"data: " + orjson.dumps(chunk) + b"\n\n"


def error_event(problem: Problem) -> bytes:
    """The last event of a stream that broke: OpenAI's clients raise it as an error."""
    return event(problem.openai_document())
