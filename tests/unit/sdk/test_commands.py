"""What every command of `lattice` has in common."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from latticework.cli import app

#: Values for what a command cannot do without; other arguments get "x".
VALUES = {"scope": "model", "verdict": "approve", "output": "rows.csv"}
MORE = {("sql", "add"): ("sqlite:///x",), ("scaffold",): ("-o", "dots.png")}
QUESTIONS = '[{"question": "How many?", "gold": "SELECT 1", "database": "x"}]'
#: Starts a suite instead of asking one.
UP = ("up",)


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command
        return
    for name, one in inner.items():
        yield from leaves(one, (*path, name))


COMMANDS = dict(leaves(typer.main.get_command(app)))


def test_every_command_takes_json_and_an_address() -> None:
    for path, command in COMMANDS.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--json", "--url", "--key"} <= options, path


def arguments(command: Any, folder: Path) -> Iterator[str]:
    """Something for everything that is required."""
    files = {"photo": "photo.png", "files": "table.csv", "file": "questions.json"}
    for parameter in command.params:
        if parameter.required or parameter.name == "message":
            value = VALUES.get(parameter.name, "x")
            if parameter.name in files:
                file = folder / files[parameter.name]
                file.write_text(QUESTIONS)
                value = str(file)
            if parameter.param_type_name == "option":
                yield parameter.opts[0]
            yield value


@pytest.mark.parametrize("path", [path for path in COMMANDS if path != UP], ids=" ".join)
def test_every_command_says_in_json_that_nothing_runs(
    path: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("LATTICEWORK_URL", "LATTICEWORK_KEY", "LATTICEWORK_HOME"):
        monkeypatch.delenv(name, raising=False)
    given = [*path, *arguments(COMMANDS[path], tmp_path), *MORE.get(path, ()), "--json"]
    result = CliRunner().invoke(app, given)
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert (result.exit_code, error["exit_code"]) == (3, 3)
    assert "lattice up" in error["detail"]
