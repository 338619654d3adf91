"""One run of a command: its client, where its output goes, and how its errors end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from enum import IntEnum
from functools import cached_property
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.table import Table

from latticework import Client, JobError, LatticeworkError, StatusError, TransportError
from latticework._exceptions import ConfigurationError, NoAddress, NoKey

PIPE_WIDTH = 240


class ExitCode(IntEnum):
    """What the shell learns."""

    OK = 0
    REFUSED = 1
    """The suite answered with a problem, or something else went wrong."""
    USAGE = 2
    """The command line is wrong."""
    NOT_RUNNING = 3
    """No suite is known or nothing answers at its address."""
    NOT_ALLOWED = 4
    """The key is missing, wrong, or lacks the scope."""
    JOB_FAILED = 5
    """The job ended failed or cancelled."""
    LIMITED = 6
    """A budget or a rate is exhausted."""
    INTERRUPTED = 130
    """Ctrl-C."""


class CommandError(Exception):
    """A sentence for the user, and the exit code."""

    def __init__(self, message: str, code: ExitCode = ExitCode.REFUSED) -> None:
        super().__init__(message)
        self.code = code


class Session:
    """What every command gets first."""

    def __init__(self, *, url: str | None = None, key: str | None = None, as_json: bool = False) -> None:
        self._url, self._key = url, key
        self.as_json = as_json

    @cached_property
    def client(self) -> Client:
        """The client; made when first used, so that commands without a suite need none."""
        return Client(self._url, self._key)

    @cached_property
    def out(self) -> Console:
        """Where results go. Through a pipe tables keep their width."""
        return _console(sys.stdout)

    @cached_property
    def err(self) -> Console:
        """Where progress and errors go."""
        return _console(sys.stderr)

    @property
    def interactive(self) -> bool:
        """Whether a person watches stdout."""
        return sys.stdout.isatty() and not self.as_json

    def emit(self, data: object) -> None:
        """Write one JSON document to stdout."""
        print(json.dumps(plain(data), indent=2, ensure_ascii=False))

    def emit_line(self, data: object) -> None:
        """Write one JSON line of a stream to stdout, at once."""
        print(json.dumps(plain(data), ensure_ascii=False), flush=True)

    def note(self, text: str) -> None:
        """Tell the person something that is no result."""
        if not self.as_json:
            self.err.print(text, highlight=False)

    def table(self, title: str, columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        """Show a table; an empty one says so."""
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*("" if cell is None else str(cell) for cell in row))
        if table.row_count:
            self.out.print(table, markup=False)
        else:
            self.note(f"No {title}.")

    def run(self, command: Callable[..., None], arguments: Mapping[str, Any]) -> ExitCode:
        """Run a command; every expected error becomes one line on stderr and an exit code."""
        try:
            command(self, **arguments)
            sys.stdout.flush()
        except CommandError as error:
            return self._fail(str(error), error.code)
        except LatticeworkError as error:
            return self._fail(_sentence(error), exit_code(error), error)
        except KeyboardInterrupt:
            return ExitCode.INTERRUPTED
        except BrokenPipeError:
            # The reader went away, as in `lattice jobs list | head`; the interpreter must not flush again.
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return ExitCode.OK
        finally:
            if "client" in self.__dict__:
                self.client.close()
        return ExitCode.OK

    def _fail(self, message: str, code: ExitCode, error: LatticeworkError | None = None) -> ExitCode:
        if self.as_json:
            document: dict[str, object] = {"detail": message, "exit_code": int(code)}
            if isinstance(error, StatusError):
                document = {**error.document, **document, "status": error.status, "code": error.code}
            print(json.dumps({"error": document}, ensure_ascii=False), file=sys.stderr)
        else:
            self.err.print("[bold red]error:[/]", end=" ")
            self.err.print(message, markup=False, highlight=False, soft_wrap=True)
        return code


def exit_code(error: LatticeworkError) -> ExitCode:
    """The exit code of an exception of the client."""
    if isinstance(error, JobError):
        return ExitCode.JOB_FAILED
    if isinstance(error, NoAddress | TransportError):
        return ExitCode.NOT_RUNNING
    if isinstance(error, NoKey) or (isinstance(error, StatusError) and error.status in (401, 403)):
        return ExitCode.NOT_ALLOWED
    if isinstance(error, StatusError) and error.status in (402, 429):
        return ExitCode.LIMITED
    return ExitCode.USAGE if isinstance(error, ConfigurationError) else ExitCode.REFUSED


def _sentence(error: LatticeworkError) -> str:
    text = str(error)
    if isinstance(error, TransportError) and exit_code(error) is ExitCode.NOT_RUNNING:
        text += " Is the suite running? `lattice up` starts one here."
    if isinstance(error, StatusError):
        shown = [one for one in error.errors if one.location and one.location not in error.detail]
        text += "".join(f"; {one.location}: {one.message}" for one in shown[:3])
    return text


def plain(data: object) -> Any:
    """The data as JSON knows it."""
    if isinstance(data, BaseModel):
        return data.model_dump(mode="json")
    if isinstance(data, Mapping):
        return {str(name): plain(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    return data


def _console(stream: Any) -> Console:
    return Console(
        file=stream,
        width=None if stream.isatty() else PIPE_WIDTH,
        highlight=False,
        emoji=False,
    )
