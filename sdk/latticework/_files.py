"""Files on their way to the suite: paths, bytes or open files, read as they are sent."""

from __future__ import annotations

import hashlib
import io
import mimetypes
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

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
        self._digest = hashlib.sha256()

    @property
    def size(self) -> int | None:
        """Bytes that will be sent, or None for a pipe."""
        if not self.rewindable:
            return None
        end = self.file.seek(0, os.SEEK_END)
        self.file.seek(self._start)
        return end - self._start

    @property
    def sha256(self) -> str:
        """Hex digest of what `chunks` has given so far."""
        return self._digest.hexdigest()

    def rewind(self) -> None:
        """Back to the first byte to send."""
        self._digest = hashlib.sha256()
        if self.rewindable:
            self.file.seek(self._start)

    def close(self) -> None:
        """Close the file if we opened it."""
        if self._ours:
            self.file.close()

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a megabyte at a time."""
        while chunk := self.file.read(CHUNK_BYTES):
            self._digest.update(chunk)
            yield chunk


class Download:
    """One file on its way here: written beside its place, and put there only when complete.

    So a broken download never looks like a file.
    """

    def __init__(self, target: str | os.PathLike[str]) -> None:
        self.target = Path(target)
        self._digest = hashlib.sha256()
        self._partial: Path | None = None
        self._sink: BinaryIO | None = None

    @property
    def sha256(self) -> str:
        """Hex digest of what was written so far."""
        return self._digest.hexdigest()

    def __enter__(self) -> Self:
        try:
            descriptor, name = tempfile.mkstemp(prefix=f".{self.target.name}.", dir=self.target.parent)
        except OSError as error:
            raise ConfigurationError(f"{self.target} cannot be written: {error.strerror}.") from None
        self._sink, self._partial = os.fdopen(descriptor, "wb"), Path(name)
        return self

    def write(self, chunk: bytes) -> None:
        """The next bytes."""
        assert self._sink is not None
        self._digest.update(chunk)
        self._sink.write(chunk)

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        assert self._sink is not None
        assert self._partial is not None
        self._sink.close()
        if kind is not None:
            self._partial.unlink()
            return
        # mkstemp makes files for the owner alone; a download is a file like any other.
        self._partial.chmod(0o666 & ~_umask())
        self._partial.replace(self.target)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from None
