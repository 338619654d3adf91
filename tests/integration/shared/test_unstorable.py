"""Text that one database can hold and another cannot is the caller's fault, never a 500."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import JSON, cast, literal, select
from sqlalchemy.dialects.postgresql import JSONB

from shared.app import create_app
from shared.database import Database
from shared.principal import Principal, PrincipalSigner
from shared.settings import ServiceSettings
from tests.conftest import SECRET


class Note(BaseModel):
    text: str


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A service that gives back what the database makes of a text."""
    database = Database(database_url)
    router = APIRouter()

    @router.post("/notes")
    async def notes(body: Note) -> str:
        async with database.session() as session:
            return str(await session.scalar(select(literal(body.text))))

    @router.post("/documents")
    async def documents(body: Note) -> str:
        kind = JSON if database.is_sqlite else JSONB
        async with database.session() as session:
            found = await session.scalar(select(cast(literal(json.dumps({"text": body.text})), kind)))
            return str(found)

    settings = ServiceSettings(principal_secret=SECRET, _env_file=None)
    app = create_app(service="notes", settings=settings, title="Notes", routers=[router])
    token = PrincipalSigner(SECRET).sign(Principal("key_1", "acme", frozenset({"admin"})), audience="notes")
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://notes", headers=headers) as client:
        yield client
    await database.close()


@pytest.mark.parametrize("path", ["/notes", "/documents"])
async def test_a_nul_is_stored_or_refused(client: httpx.AsyncClient, path: str, database_url: str) -> None:
    answer = await client.post(path, json={"text": "a\0b"})
    assert answer.status_code == (200 if database_url.startswith("sqlite") else 422), answer.text
    assert (await client.post(path, json={"text": "plain"})).status_code == 200
