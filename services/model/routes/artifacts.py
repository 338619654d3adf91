"""Artifacts: checkpoints, adapters and other files, each with a manifest of sha256 sums."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from services.model import store
from services.model.schemas import ARTIFACT_NAME, ArtifactDetail, ArtifactFile, ArtifactKind, ArtifactView
from services.model.service import ModelService, service_of
from services.model.store import ArtifactFileRow, ArtifactRow
from shared.artifacts import ArtifactRef, Manifest, ManifestFile
from shared.database import Page, new_id, utc_now
from shared.idempotency import IdempotencyConflict, IdempotencyKey
from shared.principal import Principal, requires
from shared.problems import Conflict, NotFound, PayloadTooLarge, Unprocessable, responses

router = APIRouter(prefix="/v1/artifacts", tags=["artifacts"])

Service = Annotated[ModelService, Depends(service_of)]
Caller = Annotated[Principal, Depends(requires("model"))]
ArtifactId = Annotated[str, Path(max_length=64)]
FILE_PATH = r"^[A-Za-z0-9][A-Za-z0-9._ -]*(/[A-Za-z0-9][A-Za-z0-9._ -]*)*$"
FilePath = Annotated[str, Path(pattern=FILE_PATH, max_length=200, examples=["model.safetensors"])]
Digest = Annotated[
    str | None,
    Query(pattern=r"^[0-9a-f]{64}$", description="what the bytes should hash to; refused if they do not"),
]
MAX_FILES = 10_000
_UPLOAD: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class ArtifactNotFound(NotFound):
    code, title = "artifact_not_found", "There is no such artifact"


class DigestMismatch(Unprocessable):
    code, title = "digest_mismatch", "The bytes are not those announced"


class UploadCollided(Conflict):
    code, title = "upload_collided", "The same bytes were being deleted; upload them again"


@router.post(
    "",
    status_code=201,
    summary="Upload a file as a new artifact",
    responses=responses(PayloadTooLarge, DigestMismatch, UploadCollided, IdempotencyConflict),
    openapi_extra=_UPLOAD,
)
async def upload(
    request: Request,
    service: Service,
    caller: Caller,
    response: Response,
    name: Annotated[str, Query(pattern=ARTIFACT_NAME)],
    kind: Annotated[ArtifactKind, Query()],
    path: Annotated[str, Query(pattern=FILE_PATH, max_length=200)] = "data",
    metadata: Annotated[str, Query(max_length=8192, description="a JSON object")] = "{}",
    sha256: Digest = None,
    key: IdempotencyKey = None,
) -> ArtifactDetail:
    """The body is the file, of any size the service allows; it is stored as it comes.

    Further files are put beside it with `PUT /v1/artifacts/{id}/files/{path}`.
    """
    details = _metadata(metadata)
    ref = await _receive(request, service, sha256)

    async def create() -> dict[str, Any]:
        row = ArtifactRow(
            id=new_id("artifact"),
            tenant=caller.tenant,
            name=name,
            kind=kind,
            size=ref.size,
            manifest_sha256="",
            details=details,
            created_at=utc_now(),
        )
        file = ArtifactFileRow(artifact_id=row.id, path=path, sha256=ref.sha256, size=ref.size)
        async with service.artifact_lock:
            await _still_there(service, ref.sha256)
            await _write_manifest(service, row, [file])
            async with service.database.session() as session:
                await store.add_artifact(session, row, [file])
        return _detail(row, [file]).model_dump(mode="json")

    asked = {"route": "artifacts", "name": name, "kind": kind, "path": path, "sha256": ref.sha256}
    answer = await service.idempotency.once(caller, key, {**asked, "metadata": details}, create)
    response.headers["Location"] = f"/v1/artifacts/{answer['id']}"
    return ArtifactDetail.model_validate(answer)


@router.put(
    "/{artifact_id}/files/{path:path}",
    summary="Put a file into an artifact",
    responses=responses(ArtifactNotFound, PayloadTooLarge, DigestMismatch, UploadCollided),
    openapi_extra=_UPLOAD,
)
async def put_file(
    artifact_id: ArtifactId,
    path: FilePath,
    request: Request,
    service: Service,
    caller: Caller,
    sha256: Digest = None,
) -> ArtifactDetail:
    """Add a file, or replace the one of that path; the manifest is written anew."""
    await _find(service, artifact_id, caller)
    ref = await _receive(request, service, sha256)
    async with service.artifact_lock:
        await _still_there(service, ref.sha256)
        async with service.database.session() as session:
            row = await store.find_artifact(session, artifact_id, caller.tenant)
            if row is None:
                raise ArtifactNotFound(f"There is no artifact '{artifact_id}'.")
            before = {row.manifest_sha256, *(file.sha256 for file in await store.files_of(session, row.id))}
            await session.merge(
                ArtifactFileRow(artifact_id=row.id, path=path, sha256=ref.sha256, size=ref.size)
            )
            await session.flush()
            files = await store.files_of(session, row.id)
            if len(files) > MAX_FILES:
                raise Unprocessable(f"An artifact has at most {MAX_FILES} files.")
            row.size = sum(file.size for file in files)
            await _write_manifest(service, row, files)
        await _sweep(service, before)
    return _detail(row, files)


@router.get("", summary="List artifacts")
async def list_artifacts(
    service: Service,
    caller: Caller,
    kind: Annotated[ArtifactKind | None, Query()] = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Page[ArtifactView]:
    """The tenant's artifacts, newest first."""
    async with service.database.reading() as session:
        rows, following = await store.list_artifacts(
            session, caller.tenant, kind=kind, cursor=cursor, limit=limit
        )
    return Page(data=[ArtifactView.model_validate(_fields(row)) for row in rows], next=following)


@router.get("/{artifact_id}", summary="Get an artifact", responses=responses(ArtifactNotFound))
async def get_artifact(artifact_id: ArtifactId, service: Service, caller: Caller) -> ArtifactDetail:
    """An artifact with the sha256 of every file."""
    row, files = await _find(service, artifact_id, caller)
    return _detail(row, files)


@router.get(
    "/{artifact_id}/files/{path:path}",
    summary="Download a file",
    response_class=StreamingResponse,
    responses={
        **responses(ArtifactNotFound),
        200: {
            "description": "the bytes; ETag is their sha256",
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        },
    },
)
async def download(
    artifact_id: ArtifactId, path: FilePath, service: Service, caller: Caller
) -> StreamingResponse:
    """The file, as it was uploaded."""
    _, files = await _find(service, artifact_id, caller)
    file = next((file for file in files if file.path == path), None)
    if file is None or not await asyncio.to_thread(service.artifacts.exists, file.sha256):
        raise ArtifactNotFound(f"The artifact '{artifact_id}' has no file '{path}'.")
    headers = {
        "Content-Length": str(file.size),
        "ETag": f'"{file.sha256}"',
        "X-Content-Type-Options": "nosniff",
        "Content-Disposition": f'attachment; filename="{path.rpartition("/")[2]}"',
    }
    return StreamingResponse(
        service.artifacts.stream(file.sha256), media_type="application/octet-stream", headers=headers
    )


@router.delete(
    "/{artifact_id}", status_code=204, summary="Delete an artifact", responses=responses(ArtifactNotFound)
)
async def delete_artifact(artifact_id: ArtifactId, service: Service, caller: Caller) -> None:
    """Forget an artifact; bytes nothing else refers to are removed."""
    async with service.artifact_lock:
        async with service.database.session() as session:
            row = await store.find_artifact(session, artifact_id, caller.tenant)
            if row is None:
                raise ArtifactNotFound(f"There is no artifact '{artifact_id}'.")
            digests = await store.remove_artifact(session, row)
        await _sweep(service, digests)


def _metadata(text: str) -> dict[str, Any]:
    try:
        details = orjson.loads(text)
    except orjson.JSONDecodeError:
        details = None
    if not isinstance(details, dict):
        raise Unprocessable("metadata must be a JSON object.")
    return details


async def _receive(request: Request, service: ModelService, expected: str | None) -> ArtifactRef:
    ref = await service.artifacts.put_stream(request.stream(), limit=service.settings.model_artifact_bytes)
    if expected is not None and ref.sha256 != expected:
        async with service.artifact_lock:
            await _sweep(service, {ref.sha256})
        raise DigestMismatch(f"The bytes hash to {ref.sha256}, not to {expected}.")
    return ref


async def _sweep(service: ModelService, digests: Iterable[str]) -> None:
    """Remove those blobs that nothing refers to. Call with the lock held."""
    async with service.database.reading() as session:
        unused = await store.unused(session, digests)
    for digest in unused:
        await asyncio.to_thread(service.artifacts.delete, digest)


async def _still_there(service: ModelService, digest: str) -> None:
    """An upload of known bytes stores nothing; a deletion may have removed them since."""
    if not await asyncio.to_thread(service.artifacts.exists, digest):
        raise UploadCollided(retry_after=1.0)


async def _write_manifest(service: ModelService, row: ArtifactRow, files: Sequence[ArtifactFileRow]) -> None:
    manifest = Manifest(
        kind=row.kind,
        files=[ManifestFile(path=file.path, sha256=file.sha256, size=file.size) for file in files],
        metadata={**row.details, "name": row.name},
    )
    content = manifest.model_dump_json().encode()
    row.manifest_sha256 = (await asyncio.to_thread(service.artifacts.put_bytes, content)).sha256


async def _find(
    service: ModelService, artifact_id: str, caller: Principal
) -> tuple[ArtifactRow, Sequence[ArtifactFileRow]]:
    async with service.database.reading() as session:
        row = await store.find_artifact(session, artifact_id, caller.tenant)
        if row is None:
            raise ArtifactNotFound(f"There is no artifact '{artifact_id}'.")
        return row, await store.files_of(session, artifact_id)


def _fields(row: ArtifactRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "kind": row.kind,
        "size": row.size,
        "manifest_sha256": row.manifest_sha256,
        "metadata": row.details,
        "created_at": row.created_at,
    }


def _detail(row: ArtifactRow, files: Sequence[ArtifactFileRow]) -> ArtifactDetail:
    listed = [ArtifactFile(path=file.path, sha256=file.sha256, size=file.size) for file in files]
    return ArtifactDetail.model_validate({**_fields(row), "files": listed})
