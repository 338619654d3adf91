"""The parts of the local runner that need no process."""

from __future__ import annotations

import json
import socket
import tomllib
from pathlib import Path

import pytest
from rich.console import Console

from deploy.environment import NAMES, render
from deploy.local import (
    CannotStart,
    LocalSettings,
    kept_secret,
    only_one,
    prepare,
    process_specs,
    write_address,
)
from deploy.log import Log
from deploy.requirements import requirements
from shared.app import free_port

ROOT = Path(__file__).parents[3]


def settings(home: Path) -> LocalSettings:
    return LocalSettings(home=home, port=free_port())


def test_secrets_are_made_once_and_private(tmp_path: Path) -> None:
    first = kept_secret(tmp_path, "PRINCIPAL_SECRET")
    assert kept_secret(tmp_path, "PRINCIPAL_SECRET") == first
    assert len(first) >= 32
    assert (tmp_path / "principal_secret.txt").stat().st_mode & 0o077 == 0


def test_a_secret_from_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_PRINCIPAL_SECRET", "given")
    assert kept_secret(tmp_path, "PRINCIPAL_SECRET") == "given"
    assert not list(tmp_path.iterdir())


def test_a_taken_port_is_said_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CannotStart, match=f"LATTICEWORK_PORT={port + 1} make run"):
            prepare(LocalSettings(home=tmp_path, port=port))


def test_only_one_suite_per_home(tmp_path: Path) -> None:
    with only_one(tmp_path):
        with pytest.raises(CannotStart, match="already runs"), only_one(tmp_path):
            pass
    with only_one(tmp_path):
        pass


def test_no_secret_is_on_a_command_line(tmp_path: Path) -> None:
    local = prepare(settings(tmp_path))
    words = [word for spec in process_specs(local) for word in spec.command]
    assert local.private_redis is not None
    hidden = [local.private_redis[1], local.environment["LATTICEWORK_PRINCIPAL_SECRET"]]
    assert not [word for word in words for secret in hidden if secret in word]
    assert (tmp_path / "redis" / "redis.conf").stat().st_mode & 0o077 == 0


def test_processes_start_after_what_they_need(tmp_path: Path) -> None:
    seen: set[str] = set()
    for spec in process_specs(prepare(settings(tmp_path))):
        assert set(spec.after) <= seen
        seen.add(spec.name)
    assert {"redis", "gateway", "model"} <= seen


def test_a_given_redis_replaces_the_private_one(tmp_path: Path, redis_url: str) -> None:
    local = prepare(LocalSettings(home=tmp_path, port=free_port(), redis_url=redis_url))
    assert local.environment["LATTICEWORK_REDIS_URL"] == redis_url
    assert "redis" not in [spec.name for spec in process_specs(local)]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (f"redis://:hunter2@127.0.0.1:{free_port()}/0", "no Redis takes commands at 127.0.0.1"),
        ("localhost:6379", "no address of a Redis"),
    ],
)
def test_a_redis_that_is_not_there_is_said_before_anything_starts(
    tmp_path: Path, url: str, words: str
) -> None:
    with pytest.raises(CannotStart, match=words) as caught:
        prepare(LocalSettings(home=tmp_path, port=free_port(), redis_url=url))
    assert "hunter2" not in str(caught.value)


def test_the_address_file_is_complete_and_private(tmp_path: Path) -> None:
    local = prepare(settings(tmp_path))
    path = write_address(local, "lw_key", {"gateway": 1})
    assert json.loads(path.read_text()) == {
        "url": local.url,
        "key": "lw_key",
        "pids": {"gateway": 1},
        "ready": True,
    }
    assert path.stat().st_mode & 0o077 == 0


def test_the_log_keeps_everything_and_shows_what_matters(tmp_path: Path) -> None:
    console = Console(record=True, width=200)
    log = Log(tmp_path / "log", console, verbose=False)
    log("model", '{"level": "info", "event": "loaded", "seconds": 2, "timestamp": "t"}')
    log("model", '{"level": "error", "event": "broke"}')
    log("model", "plain words")
    log.close()
    kept = (tmp_path / "log").read_text()
    assert "info    loaded seconds=2" in kept
    assert "plain words" in kept
    shown = console.export_text()
    assert "broke" in shown
    assert "loaded" not in shown


def test_a_fresh_env_file_has_every_secret_and_none_twice() -> None:
    values = [line.partition("=")[2] for line in render().splitlines() if "=" in line]
    assert len(set(values)) == len(NAMES)
    assert min(map(len, values)) >= 32


def test_image_requirements_come_from_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert requirements(ROOT / "pyproject.toml", []) == project["dependencies"]
    vision = project["optional-dependencies"]["vision"]
    assert requirements(ROOT / "pyproject.toml", ["vision"]) == vision
