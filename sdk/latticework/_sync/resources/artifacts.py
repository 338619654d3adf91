# Generated from latticework/_async/resources/artifacts.py by sdk/generate.py; do not edit.
"""Checkpoints, adapters and other files, streamed in both directions and checked by their sha256."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from latticework._calls import Call, get, new_idempotency_key, path_of
from latticework._constants import CHUNK_BYTES
from latticework._exceptions import UnexpectedResponse
from latticework._files import Download, FileSource, Upload
from latticework._sync._paging import Pages
from latticework._sync.resources._resource import Resource
from latticework.models import ArtifactDetail, ArtifactView

Kind = Literal["checkpoint", "adapter", "gguf", "dataset", "report"]
ANYTHING = "application/octet-stream"


class Artifacts(Resource):
    """`client.artifacts`."""

    def upload(
        self,
        source: FileSource,
        *,
        kind: Kind,
        name: str | None = None,
        path: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> ArtifactDetail:
        """Upload a file as a new artifact.

        Args:
            name: of the artifact; the file's own when left out.
            path: of the file inside the artifact; the file's own name when left out.
        """
        upload = Upload(source)
        path = path or upload.name
        parameters = {
            "name": name or upload.name,
            "kind": kind,
            "path": path,
            "metadata": json.dumps(dict(metadata)) if metadata is not None else None,
        }
        call = Call(
            "POST",
            "/v1/artifacts",
            parameters,
            content=upload,
            idempotency_key=idempotency_key or new_idempotency_key(),
        )
        return _checked(self._client.fetch(call, ArtifactDetail), path, upload.sha256)

    def put_file(self, artifact_id: str, source: FileSource, *, path: str | None = None) -> ArtifactDetail:
        """Add a file to an artifact, or replace the one of that path."""
        upload = Upload(source)
        path = path or upload.name
        call = Call("PUT", _file_path(artifact_id, path), content=upload)
        return _checked(self._client.fetch(call, ArtifactDetail), path, upload.sha256)

    def list(self, *, kind: Kind | None = None, page_size: int | None = None) -> Pages[ArtifactView]:
        """The tenant's artifacts, newest first."""
        return Pages(self._client, get("/v1/artifacts", kind=kind, limit=page_size), ArtifactView)

    def get(self, artifact_id: str) -> ArtifactDetail:
        """An artifact with the sha256 of every file."""
        return self._client.fetch(get(path_of("/v1/artifacts/{}", artifact_id)), ArtifactDetail)

    def download(self, artifact_id: str, path: str, target: str | os.PathLike[str]) -> Path:
        """Write one file to `target`, which appears only when it is complete and right.

        Raises:
            UnexpectedResponse: the bytes are not those of the manifest.
        """
        call = Call("GET", _file_path(artifact_id, path), accept=ANYTHING)
        with self._client.open(call) as response:
            with Download(target) as file:
                for chunk in self._client.chunks(response, CHUNK_BYTES):
                    file.write(chunk)
                _same_bytes(path, response.headers.get("etag", "").strip('"'), file.sha256)
        return file.target

    def read(self, artifact_id: str, path: str) -> bytes:
        """One file as bytes, in memory."""
        call = Call("GET", _file_path(artifact_id, path), accept=ANYTHING)
        return (self._client.send(call)).content

    def delete(self, artifact_id: str) -> None:
        """Forget an artifact; bytes nothing else refers to are removed."""
        self._client.send(Call("DELETE", path_of("/v1/artifacts/{}", artifact_id)))


def _file_path(artifact_id: str, path: str) -> str:
    folders = "/".join(path_of("{}", part) for part in path.split("/"))
    return path_of("/v1/artifacts/{}/files/", artifact_id) + folders


def _checked(artifact: ArtifactDetail, path: str, sha256: str) -> ArtifactDetail:
    arrived = next((file.sha256 for file in artifact.files if file.path == path), "")
    _same_bytes(path, arrived, sha256)
    return artifact


def _same_bytes(path: str, theirs: str, ours: str) -> None:
    if theirs != ours:
        raise UnexpectedResponse(f"{path} changed on its way: its sha256 is {ours} here and {theirs} there.")
