"""The command `lattice`: the suite from a terminal.

Every command takes `--json` (data on stdout and nothing else), `--url` and `--key`, and ends with an
exit code that says what happened (`latticework.cli._session.ExitCode`).
"""

from __future__ import annotations

import sys

import typer

from latticework._version import __version__
from latticework.cli import ask, chat, jobs, keys, sql, suite, vision

app = typer.Typer(
    name="lattice",
    help="Talk to a Latticework suite.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for room in (suite, chat, ask, vision, keys, jobs, sql):
    room.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"lattice {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
    ),
) -> None:
    """Talk to a Latticework suite: chat, ask databases, look at pictures, follow jobs."""


def main() -> None:
    """Entry of the `lattice` command."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets a mark in its place, not a stack trace.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    app()
