"""Usage as upstreams report it, found without taking apart what only passes through."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

TAIL = 64 * 1024
"""As much of the end of an answer is kept to find its usage in."""

_SMALL = 16 * 1024
_REPORTED = re.compile(rb'"usage"\s*:\s*\{')
_USAGE_OBJECT = re.compile(rb'"usage"\s*:\s*(\{(?:[^{}]|\{[^{}]*\})*\})')
_DONE = re.compile(rb"(?:^|\n)data:\s*\[DONE\]")
_EVENT_END = re.compile(rb"\r?\n\r?\n")
_HELD_AT_MOST = 64 * 1024


@dataclass(slots=True)
class Tokens:
    """What an upstream says it used."""

    prompt: int
    completion: int
    cached: int


def tokens_of(usage: Any) -> Tokens | None:
    """OpenAI's usage object; None when it is something else."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens", 0)
    if not (isinstance(prompt, int) and isinstance(completion, int | None)):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else 0
    if not isinstance(cached, int):
        cached = 0
    prompt, completion = max(0, prompt), max(0, completion or 0)
    return Tokens(prompt, completion, min(max(0, cached), prompt))


def usage_of_answer(end: bytes, whole: bool) -> Tokens | None:
    """Usage of a JSON answer; `end` is its last part, or all of it if `whole`."""
    if whole and len(end) <= _SMALL:
        try:
            answer = orjson.loads(end)
        except orjson.JSONDecodeError:
            return None
        return tokens_of(answer.get("usage")) if isinstance(answer, dict) else None
    found = None
    for match in _USAGE_OBJECT.finditer(end):
        found = _parse(match[1]) or found
    return found


def _parse(raw: bytes) -> Tokens | None:
    try:
        return tokens_of(orjson.loads(raw))
    except orjson.JSONDecodeError:
        return None


class StreamMeter:
    """Watches a stream of server-sent events go by: usage, number of pieces, and the end.

    With `strip` the chunk that carries nothing but usage is taken out, because the caller did not ask
    for it; only an incomplete event is then held back until its rest comes. Everything else leaves
    as it came, byte for byte.
    """

    __slots__ = ("_held", "_strip", "_tail", "chunks", "done", "tokens")

    def __init__(self, strip: bool) -> None:
        self.tokens: Tokens | None = None
        self.chunks = 0
        self.done = False
        self._strip = strip
        self._held = b""
        self._tail = b""

    def feed(self, piece: bytes) -> bytes:
        """Take a piece in; what may go out now."""
        if self._held:
            piece = self._held + piece
            self._held = b""
        elif not self._strip and self._tail:
            return self._watch(piece)
        if piece.endswith(b"\n\n"):
            # The common case: whole events, no usage in them.
            if _REPORTED.search(piece) is None:
                self._count(piece)
                return piece
            return self._take_apart(piece)
        if not self._strip:
            return self._watch(piece)
        end = 0
        for match in _EVENT_END.finditer(piece):
            end = match.end()
        if end < len(piece):
            piece, self._held = piece[:end], piece[end:]
            if len(self._held) > _HELD_AT_MOST:  # No usage chunk is that long.
                piece, self._held = piece + self._held, b""
        if not piece or _REPORTED.search(piece) is None:
            self._count(piece)
            return piece
        return self._take_apart(piece)

    def rest(self) -> bytes:
        """What was held back when the stream ended in the middle of an event."""
        held, self._held = self._held, b""
        if held:
            self._count(held)
        return held

    def _count(self, events: bytes) -> None:
        # A line break inside JSON is escaped, so this counts events and not words.
        self.chunks += events.count(b"\ndata:") + events.startswith(b"data:")
        if b"[DONE]" in events and _DONE.search(events) is not None:
            self.done = True
            self.chunks -= 1

    def _watch(self, piece: bytes) -> bytes:
        """Torn events that need not be changed pass at once; a copy is put together behind them."""
        events = self._tail + piece
        end = 0
        for match in _EVENT_END.finditer(events):
            end = match.end()
        self._tail = events[end:][-_HELD_AT_MOST:]
        whole = events[:end]
        if whole:
            if _REPORTED.search(whole) is None:
                self._count(whole)
            else:
                self._take_apart(whole)
        return piece

    def _take_apart(self, events: bytes) -> bytes:
        kept: list[bytes] = []
        position = 0
        for match in _EVENT_END.finditer(events):
            event = events[position : match.end()]
            position = match.end()
            if not self._is_only_usage(event):
                kept.append(event)
        return b"".join(kept) if self._strip else events

    def _is_only_usage(self, event: bytes) -> bool:
        if _REPORTED.search(event) is None:
            self._count(event)
            return False
        data = b"".join(line[5:].strip() for line in event.splitlines() if line.startswith(b"data:"))
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError:
            self._count(event)
            return False
        found = tokens_of(chunk.get("usage")) if isinstance(chunk, dict) else None
        if found is not None:
            self.tokens = found
        if found is not None and chunk.get("choices") == []:
            return True
        self._count(event)
        return False
