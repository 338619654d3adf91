"""The first key: `python -m gateway.bootstrap` mints one into the database and prints it as JSON."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

import orjson

from gateway.keys import digest, new_secret
from gateway.management import new_key_row
from gateway.routing import SCOPES
from gateway.settings import GatewaySettings
from gateway.store import KeyStore
from shared.database import Database, migrate
from shared.settings import ConfigurationError, load_settings


async def mint_key(
    database_url: str, *, name: str, tenant: str = "default", scopes: list[str] | None = None
) -> dict[str, str]:
    """Make a key without limits, by default with every right; its id and the secret.

    Needs the database only: Redis learns of the key when it is first used.
    """
    await migrate(database_url, "gateway")
    secret = new_secret()
    row = new_key_row(tenant, name, secret, scopes or ["admin"], tenant_class="admin")
    database = Database(database_url)
    try:
        await KeyStore(database).add(row)
    finally:
        await database.close()
    return {"id": row.id, "tenant": tenant, "key": secret}


def read_kept(path: Path) -> dict[str, str] | None:
    """The key in the file at `path`, if there is one."""
    try:
        kept: dict[str, str] = orjson.loads(path.read_bytes())
        return kept if isinstance(kept["key"], str) else None
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None


async def still_opens(database_url: str, secret: str) -> bool:
    """Whether this database knows the key and it is not revoked."""
    await migrate(database_url, "gateway")
    database = Database(database_url)
    try:
        found = await KeyStore(database).by_digest(digest(secret))
    finally:
        await database.close()
    return found is not None and not found[0].revoked


def keep(path: Path, minted: dict[str, str]) -> None:
    """Write a key where only its owner can read it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600, exist_ok=False)
    partial.write_bytes(orjson.dumps(minted))
    partial.replace(path)


def main() -> None:
    """Print one JSON object; exit 2 on a wrong setting or argument."""
    parser = argparse.ArgumentParser(prog="python -m gateway.bootstrap", description=__doc__)
    parser.add_argument("--name", default="first key")
    parser.add_argument("--tenant", default="default")
    parser.add_argument("--scope", action="append", choices=sorted(SCOPES), help="default: admin")
    parser.add_argument("--keep", type=Path, help="file with the key; used again while the key is good")
    arguments = parser.parse_args()
    try:
        settings = load_settings(GatewaySettings)
    except ConfigurationError as error:
        print(f"gateway: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    database_url = settings.resolved_database_url()
    minted = read_kept(arguments.keep) if arguments.keep else None
    if minted is None or not asyncio.run(still_opens(database_url, minted["key"])):
        work = mint_key(database_url, name=arguments.name, tenant=arguments.tenant, scopes=arguments.scope)
        minted = asyncio.run(work)
        if arguments.keep:
            keep(arguments.keep, minted)
    print(orjson.dumps(minted).decode())


if __name__ == "__main__":
    main()
