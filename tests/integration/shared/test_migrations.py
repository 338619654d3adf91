"""Every service's tables are what its models say, on both databases, however often they are migrated."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path

import pytest

from shared import database as module
from shared.database import migrate, schema_drift

ROOT = Path(__file__).parents[3]
PACKAGES = sorted(
    ".".join(path.relative_to(ROOT).parent.parts)
    for path in [
        *ROOT.glob("*/migrations"),
        *ROOT.glob("services/*/migrations"),
        *ROOT.glob("shared/*/migrations"),
    ]
)


def test_there_are_packages_with_tables() -> None:
    assert {"gateway", "services.model", "shared.jobs"} <= set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
async def test_migrations_make_what_the_models_say(package: str, database_url: str) -> None:
    await migrate(database_url, package)
    assert await schema_drift(database_url, package) == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_newest_revision_is_the_one_alembic_sees(package: str) -> None:
    from alembic.script import ScriptDirectory

    importlib.import_module(f"{package}.store")
    heads = ScriptDirectory.from_config(module._alembic(package)).get_heads()
    assert heads == [module._newest(package)]


async def test_all_share_one_database_and_race(database_url: str) -> None:
    await asyncio.gather(*(migrate(database_url, package) for package in PACKAGES * 2))
    for package in PACKAGES:
        assert await schema_drift(database_url, package) == []
