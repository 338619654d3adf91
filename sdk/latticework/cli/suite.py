"""`lattice up` and `lattice status`: the suite itself."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2
import typer
from rich.text import Text

from latticework import StatusError
from latticework.cli._command import command
from latticework.cli._session import CommandError, ExitCode, Session

RUNNER = "deploy.local"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "up")(up)
    command(app, "status")(status)


def up(session: Session) -> None:
    """Start the suite of this checkout, as `make run` does, until Ctrl-C."""
    sys.path.insert(0, str(Path.cwd()))
    if importlib.util.find_spec("deploy") is None or importlib.util.find_spec(RUNNER) is None:
        raise CommandError(
            "The suite is not installed here; go to its checkout and type `make run`.", ExitCode.USAGE
        )
    # In its own group Ctrl-C would not reach it; in ours the terminal stops both, and we wait for it.
    output = sys.stderr if session.as_json else None
    child = subprocess.Popen([sys.executable, "-m", RUNNER], stdout=output)
    previous = [signal.signal(number, lambda *_: child.terminate()) for number in (signal.SIGTERM,)]
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:
            continue
    signal.signal(signal.SIGTERM, previous[0])
    if code not in (0, -signal.SIGINT, -signal.SIGTERM):
        raise CommandError(f"The suite ended with code {code}; its own words are above.")


def status(session: Session) -> None:
    """Show whether the suite is there, ready, and takes the key."""
    client = session.client
    report: dict[str, Any] = {"url": client.url, "source": client.connection.source}
    try:
        report |= {"status": "ready", "not_ready": {}, **client.readiness()}
    except StatusError as error:
        if error.status != 503:
            raise
        report |= {"status": "not ready", "not_ready": _reasons(error)}
    report["key"] = _key_state(session)
    if session.as_json:
        session.emit(report)
    else:
        _show(session, report)
    if report["status"] != "ready":
        raise typer.Exit(ExitCode.NOT_RUNNING)
    if report["key"] != "accepted":
        raise typer.Exit(ExitCode.NOT_ALLOWED)


def _reasons(error: StatusError) -> dict[str, str]:
    reasons = error.document.get("not_ready")
    return dict(reasons) if isinstance(reasons, dict) else {"suite": error.detail}


def _key_state(session: Session) -> str:
    try:
        session.client.request("GET", "/v1/models")
    except StatusError as error:
        return "refused" if error.status == httpx2.codes.UNAUTHORIZED else "accepted"
    return "accepted"


def _show(session: Session, report: dict[str, Any]) -> None:
    ready = report["status"] == "ready"
    session.out.print(Text.assemble(report["url"], "  ", (report["status"], "green" if ready else "yellow")))
    for name, reason in report["not_ready"].items():
        session.out.print(f"  {name}: {reason}", markup=False, soft_wrap=True)
    session.out.print(f"key {report['key']}, from {_short(report['source'])}", markup=False, soft_wrap=True)


def _short(source: str) -> str:
    path = Path(source)
    return os.path.relpath(path) if path.is_absolute() and path.is_relative_to(Path.cwd()) else source
