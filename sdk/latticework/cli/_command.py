"""How a function becomes a command: with the options every command has, and its errors caught."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from latticework.cli._session import ExitCode, Session

EVERYWHERE = "Everywhere"
Command = Callable[..., None]

_JSON = Annotated[
    bool, typer.Option("--json", help="Write data as JSON, and nothing else.", rich_help_panel=EVERYWHERE)
]
_URL = Annotated[
    str | None,
    typer.Option("--url", help="Address of the suite.", envvar="LATTICEWORK_URL", rich_help_panel=EVERYWHERE),
]
_KEY = Annotated[
    str | None,
    typer.Option(
        "--key",
        help="Key to use; the environment is the safer place, since others can see your command line.",
        envvar="LATTICEWORK_KEY",
        show_envvar=True,
        rich_help_panel=EVERYWHERE,
    ),
]
_COMMON = (("json_", _JSON, False), ("url_", _URL, None), ("key_", _KEY, None))


def command(app: typer.Typer, name: str) -> Callable[[Command], Command]:
    """Register a function `(session, ...)` as the command `name` of `app`."""

    def register(function: Command) -> Command:
        signature = inspect.signature(function, eval_str=True)
        _, *own = signature.parameters.values()
        common = [
            inspect.Parameter(parameter, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
            for parameter, kind, default in _COMMON
        ]

        def run(**arguments: Any) -> None:
            session = Session(
                as_json=arguments.pop("json_"), url=arguments.pop("url_"), key=arguments.pop("key_")
            )
            code = session.run(function, arguments)
            if code is not ExitCode.OK:
                raise typer.Exit(int(code))

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own] + common
        run.__name__ = function.__name__
        run.__doc__ = function.__doc__
        run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        app.command(name)(run)
        return function

    return register


def group(app: typer.Typer, name: str, help: str) -> typer.Typer:
    """A group of commands."""
    made = typer.Typer(name=name, help=help, no_args_is_help=True)
    app.add_typer(made)
    return made
