"""`make env`: a `.env` for docker compose with fresh secrets. Never overwrites one that exists."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

NAMES = {
    "LATTICEWORK_PRINCIPAL_SECRET": "signs the tokens services know each other's callers by",
    "LATTICEWORK_CREDENTIALS_SECRET": "encrypts the credentials of registered databases",
    "LATTICEWORK_METRICS_TOKEN": "with which a scraper reads /metrics",
    "POSTGRES_PASSWORD": "of the role latticework",
    "REDIS_PASSWORD": "of the queue",
}


def render() -> str:
    """The text of a fresh `.env`."""
    lines = ["# Secrets of this installation, made by `make env`. Keep this file to yourself."]
    for name, meaning in NAMES.items():
        lines += [f"# {meaning}", f"{name}={secrets.token_urlsafe(36)}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write `.env` here, readable by its owner only."""
    path = Path(".env")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        print(f"{path} exists already and is left as it is.", file=sys.stderr)
        raise SystemExit(1) from None
    with os.fdopen(descriptor, "w") as sink:
        sink.write(render())
    print(f"wrote {path}; now: docker compose up")


if __name__ == "__main__":
    main()
