"""Files on their way to the suite: paths, bytes or open files, read as they are sent."""

from __future__ import annotations

import io
import mimetypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from latticework._constants import CHUNK_BYTES
from latticework._exceptions import ConfigurationError

FileSource = str | os.PathLike[str] | bytes | BinaryIO
"""A path, the bytes themselves, or a file opened for reading bytes."""


class Upload:
    """One file to send. It is never read into memory as a whole.

    Raises:
        ConfigurationError: the path cannot be read.
    """

    def __init__(self, source: FileSource, *, name: str | None = None, media_type: str | None = None) -> None:
        self._ours = not hasattr(source, "read")
        self.file: BinaryIO
        if isinstance(source, bytes):
            self.file, found = io.BytesIO(source), "data"
        elif isinstance(source, str | os.PathLike):
            path = Path(source)
            self.file, found = _open(path), path.name
        else:
            self.file, found = source, Path(str(getattr(source, "name", "data"))).name
        self.name = name or found
        self.media_type = media_type or mimetypes.guess_type(self.name)[0] or "application/octet-stream"
        self.rewindable = self.file.seekable()
        self._start = self.file.tell() if self.rewindable else 0

    @property
    def size(self) -> int | None:
        """Bytes that will be sent, or None for a pipe."""
        if not self.rewindable:
            return None
        end = self.file.seek(0, os.SEEK_END)
        self.file.seek(self._start)
        return end - self._start

    def rewind(self) -> None:
        """Back to the first byte to send."""
        if self.rewindable:
            self.file.seek(self._start)

    def close(self) -> None:
        """Close the file if we opened it."""
        if self._ours:
            self.file.close()

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a megabyte at a time."""
        while chunk := self.file.read(CHUNK_BYTES):
            yield chunk


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
