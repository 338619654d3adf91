"""Content-addressed files: put bytes, get them back by their sha256, wherever they are kept.

Any fsspec URL will do (a folder, `s3://bucket/prefix`, `memory://`). Writing the same bytes twice
stores them once. The store knows nothing of tenants: whoever keeps a reference decides who may read.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import fsspec
from pydantic import BaseModel, Field

from shared.problems import NotFound, PayloadTooLarge

CHUNK = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ArtifactRef:
    """Where some bytes are: their sha256 in hex, and how many there are."""

    sha256: str
    size: int


class ManifestFile(BaseModel):
    """One file of an artifact."""

    path: str = Field(description="relative path, forward slashes")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)


class Manifest(BaseModel):
    """What an artifact is made of; itself stored by its hash."""

    kind: str = Field(description="such as checkpoint, adapter, dataset, report")
    files: list[ManifestFile]
    metadata: dict[str, Any] = Field(default_factory=dict)


class ArtifactStore:
    """Blobs under `<url>/<first two hex digits>/<sha256>`."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._fs.makedirs(self._root, exist_ok=True)

    def _path(self, sha256: str) -> str:
        if not _SHA256.fullmatch(sha256):
            raise NotFound("That is not a sha256.")
        return f"{self._root}/{sha256[:2]}/{sha256}"

    def put_bytes(self, content: bytes) -> ArtifactRef:
        """Store `content`."""
        return self._put(iter((content,)), limit=None)

    def put_file(self, source: BinaryIO, *, limit: int | None = None) -> ArtifactRef:
        """Store what `source` holds, in pieces; nothing is kept when it exceeds `limit` bytes.

        Raises:
            PayloadTooLarge: more than `limit` bytes came.
        """
        return self._put(iter(lambda: source.read(CHUNK), b""), limit=limit)

    async def put_stream(self, chunks: AsyncIterator[bytes], *, limit: int | None = None) -> ArtifactRef:
        """Store an asynchronous stream without holding it in memory; see `put_file`."""
        upload = await asyncio.to_thread(_Upload, self._fs, self._root, limit)
        try:
            async for chunk in chunks:
                await asyncio.to_thread(upload.write, chunk)
            return await asyncio.to_thread(upload.finish, self._path)
        finally:
            await asyncio.to_thread(upload.discard)

    def _put(self, chunks: Iterator[bytes], limit: int | None) -> ArtifactRef:
        upload = _Upload(self._fs, self._root, limit)
        try:
            for chunk in chunks:
                upload.write(chunk)
            return upload.finish(self._path)
        finally:
            upload.discard()

    def exists(self, sha256: str) -> bool:
        """Whether the bytes are here."""
        return bool(self._fs.exists(self._path(sha256)))

    def open(self, sha256: str) -> BinaryIO:
        """A readable file.

        Raises:
            NotFound: no such bytes.
        """
        try:
            opened: BinaryIO = self._fs.open(self._path(sha256), "rb")
        except FileNotFoundError:
            raise NotFound(f"There is no artifact {sha256}.") from None
        return opened

    def read(self, sha256: str) -> bytes:
        """All the bytes."""
        with self.open(sha256) as source:
            return source.read()

    async def stream(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes in pieces, read off the event loop."""
        source = await asyncio.to_thread(self.open, sha256)
        try:
            while chunk := await asyncio.to_thread(source.read, CHUNK):
                yield chunk
        finally:
            await asyncio.to_thread(source.close)

    def delete(self, sha256: str) -> None:
        """Forget the bytes; harmless when they are gone."""
        path = self._path(sha256)
        if self._fs.exists(path):
            self._fs.rm_file(path)

    def put_folder(self, folder: Path, *, kind: str, metadata: dict[str, Any] | None = None) -> ArtifactRef:
        """Store every file below `folder` and a manifest of them; returns the manifest's reference."""
        files = []
        for path in sorted(item for item in folder.rglob("*") if item.is_file() and not item.is_symlink()):
            with path.open("rb") as source:
                ref = self.put_file(source)
            files.append(
                ManifestFile(path=path.relative_to(folder).as_posix(), sha256=ref.sha256, size=ref.size)
            )
        manifest = Manifest(kind=kind, files=files, metadata=metadata or {})
        return self.put_bytes(manifest.model_dump_json().encode())

    def get_folder(self, manifest_sha256: str, folder: Path) -> Manifest:
        """Write an artifact's files below `folder`, checking every hash.

        Raises:
            NotFound: a piece is missing.
            ValueError: a path leads out of `folder`, or bytes do not match their hash.
        """
        manifest = Manifest.model_validate_json(self.read(manifest_sha256))
        for item in manifest.files:
            target = (folder / item.path).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise ValueError(f"the manifest names a path outside the folder: {item.path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with self.open(item.sha256) as source, target.open("wb") as sink:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    sink.write(chunk)
            if digest.hexdigest() != item.sha256:
                raise ValueError(f"the stored bytes of {item.path} do not match their sha256")
        return manifest


class _Upload:
    """Bytes on their way in: written aside, moved to their name once the hash is known."""

    def __init__(self, fs: Any, root: str, limit: int | None) -> None:
        self._fs, self._limit = fs, limit
        self._partial = f"{root}/incoming/{uuid4().hex}"
        fs.makedirs(f"{root}/incoming", exist_ok=True)
        self._sink = fs.open(self._partial, "wb")
        self._digest, self._size = hashlib.sha256(), 0

    def write(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._limit is not None and self._size > self._limit:
            raise PayloadTooLarge(f"The file is larger than {self._limit} bytes.")
        self._digest.update(chunk)
        self._sink.write(chunk)

    def finish(self, path_of: Any) -> ArtifactRef:
        self._sink.close()
        sha256 = self._digest.hexdigest()
        target = path_of(sha256)
        if not self._fs.exists(target):
            self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            self._fs.mv(self._partial, target)
        return ArtifactRef(sha256, self._size)

    def discard(self) -> None:
        self._sink.close()
        if self._fs.exists(self._partial):
            self._fs.rm_file(self._partial)
