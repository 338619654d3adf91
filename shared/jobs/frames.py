"""Messages between a worker and the process of a job: a length in four bytes, then JSON."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import asyncio

_LENGTH = struct.Struct("!I")
FRAME_LIMIT = 8 << 20

Message = dict[str, Any]


class FrameTooLarge(Exception):
    """A message exceeds what the other side will read."""


def encode(message: Mapping[str, Any]) -> bytes:
    """The bytes of one message.

    Raises:
        FrameTooLarge: it exceeds FRAME_LIMIT bytes.
        TypeError: it holds what JSON cannot.
    """
    body = orjson.dumps(dict(message), option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    if len(body) > FRAME_LIMIT:
        raise FrameTooLarge(f"a message of {len(body)} bytes; at most {FRAME_LIMIT} are taken")
    return _LENGTH.pack(len(body)) + body


async def read(reader: asyncio.StreamReader) -> Message | None:
    """The next message; None at the end of the stream.

    Raises:
        FrameTooLarge: the other side announces more than FRAME_LIMIT bytes.
    """
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        if length > FRAME_LIMIT:
            raise FrameTooLarge(f"a message of {length} bytes")
        message: Message = orjson.loads(await reader.readexactly(length))
    except (EOFError, ConnectionError):  # asyncio's IncompleteReadError is an EOFError
        return None
    return message


class Channel:
    """The job's end of the socket, blocking; sending is safe from several threads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._lock = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one message whole."""
        data = encode(message)
        with self._lock:
            self._socket.sendall(data)

    def receive(self) -> Message | None:
        """The next message; None when the worker has gone."""
        head = self._exactly(_LENGTH.size)
        if head is None:
            return None
        body = self._exactly(_LENGTH.unpack(head)[0])
        if body is None:
            return None
        message: Message = orjson.loads(body)
        return message

    def _exactly(self, count: int) -> bytes | None:
        parts = bytearray()
        while len(parts) < count:
            try:
                piece = self._socket.recv(count - len(parts))
            except ConnectionError:
                return None
            if not piece:
                return None
            parts += piece
        return bytes(parts)
