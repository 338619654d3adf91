"""Messages on a pipe: a JSON head and binary blobs, length-prefixed. Never pickles, so that a
decoder taken over by a hostile image can send its parent nothing but data."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, BinaryIO

import orjson

_LENGTH = struct.Struct("<I")
MAXIMUM_HEAD = 16 << 20
MAXIMUM_BLOBS = 256
MAXIMUM_BLOB = 1 << 30


def write_message(stream: BinaryIO, head: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Write one message and flush it."""
    body = orjson.dumps({**head, "blobs": [len(blob) for blob in blobs]})
    stream.write(_LENGTH.pack(len(body)))
    stream.write(body)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], list[bytes]]:
    """Read one message. Raises EOFError where the other side is gone or sends nonsense."""
    (length,) = _LENGTH.unpack(_read(stream, _LENGTH.size))
    if length > MAXIMUM_HEAD:
        raise EOFError("the message head is too long")
    try:
        head = orjson.loads(_read(stream, length))
        sizes = head.pop("blobs")
    except (orjson.JSONDecodeError, KeyError, AttributeError):
        raise EOFError("the message head is no JSON object") from None
    if len(sizes) > MAXIMUM_BLOBS or any(not 0 <= size <= MAXIMUM_BLOB for size in sizes):
        raise EOFError("the message has impossible blobs")
    return head, [_read(stream, size) for size in sizes]


def _read(stream: BinaryIO, count: int) -> bytes:
    parts: list[bytes] = []
    while count:
        part = stream.read(count)
        if not part:
            raise EOFError("the other side is gone")
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
