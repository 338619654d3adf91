"""Whom to ask as whom, timeouts, retry policy."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from latticework import Client, ConfigurationError, RetryPolicy, Timeouts
from latticework._config import resolve, retry_after_seconds

LOCAL = {"url": "http://127.0.0.1:8080", "key": "lw_local", "pids": [1], "ready": True}


def state(folder: Path, **changes: object) -> Path:
    home = folder / ".latticework"
    home.mkdir()
    (home / "local.json").write_text(json.dumps({**LOCAL, **changes}))
    return folder


def test_arguments_win_over_the_environment(tmp_path: Path) -> None:
    environment = {"LATTICEWORK_URL": "http://env", "LATTICEWORK_KEY": "lw_env"}
    found = resolve("http://given/v1/", "lw_given", environ=environment, start=tmp_path)
    assert (found.url, found.key) == ("http://given", "lw_given")
    found = resolve(environ=environment, start=tmp_path)
    assert (found.url, found.key) == ("http://env", "lw_env")


def test_local_file_is_found_upwards(tmp_path: Path) -> None:
    below = state(tmp_path) / "a" / "b"
    below.mkdir(parents=True)
    found = resolve(environ={}, start=below)
    assert (found.url, found.key) == ("http://127.0.0.1:8080", "lw_local")
    assert found.source == str(tmp_path / ".latticework" / "local.json")


def test_home_variable_moves_the_local_file(tmp_path: Path) -> None:
    home = state(tmp_path) / ".latticework"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert resolve(environ={"LATTICEWORK_HOME": str(home)}, start=Path("/")).key == "lw_local"
    with pytest.raises(ConfigurationError, match="lattice up"):
        resolve(environ={"LATTICEWORK_HOME": str(elsewhere)}, start=tmp_path)


def test_own_key_at_the_local_suite(tmp_path: Path) -> None:
    found = resolve(environ={"LATTICEWORK_KEY": "lw_mine"}, start=state(tmp_path))
    assert (found.url, found.key) == ("http://127.0.0.1:8080", "lw_mine")


def test_local_key_never_goes_to_another_address(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"No key for http://other\.example"):
        resolve("http://other.example", environ={}, start=state(tmp_path))


def test_stray_file_cannot_lure_a_key_away(tmp_path: Path) -> None:
    folder = state(tmp_path, url="http://evil.example")
    with pytest.raises(ConfigurationError, match="to send your key there"):
        resolve(environ={"LATTICEWORK_KEY": "lw_mine"}, start=folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"url": "http://x"}', '"x"'])
def test_broken_local_file_is_said_in_one_sentence(tmp_path: Path, content: str) -> None:
    state(tmp_path)
    (tmp_path / ".latticework" / "local.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"local\.json cannot be read"):
        resolve(environ={}, start=tmp_path)


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://u:p@x", "http://x?a=1"])
def test_wrong_addresses(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        resolve(url, "lw_x", environ={}, start=tmp_path)


@pytest.mark.parametrize("key", ["lw_a b", "lw_ä", "lw_a\nX-Evil: 1"])
def test_wrong_keys_are_not_repeated(key: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        resolve("http://x", key, environ={}, start=tmp_path)
    assert key not in str(caught.value)


def test_key_is_never_shown() -> None:
    with Client("http://127.0.0.1:1", "lw_secret") as client:
        assert "lw_secret" not in repr(client) + repr(client.connection) + str(vars(client))


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_wrong_timeouts(value: float) -> None:
    with pytest.raises(ConfigurationError, match="read timeout"):
        Timeouts(read=value)


def test_delays_double_up_to_the_cap_with_jitter() -> None:
    policy = RetryPolicy(max_retries=5, first_delay=1, max_delay=4, jitter=0.5)
    for attempt, full in enumerate([1, 2, 4, 4, 4]):
        delays = {policy.delay(attempt) for _ in range(50)}
        assert len(delays) > 1
        assert all(delay is not None and full / 2 <= delay <= full for delay in delays)
    assert policy.delay(5) is None


def test_server_directed_delay() -> None:
    policy = RetryPolicy(max_retries=1, max_retry_after=10)
    assert policy.delay(0, 7) == 7
    assert policy.delay(0, 11) is None
    assert policy.delay(1, 7) is None


def test_retry_after_in_milliseconds_seconds_or_as_a_date() -> None:
    assert retry_after_seconds({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert retry_after_seconds({"retry-after": "9"}) == 9
    date = retry_after_seconds({"retry-after": formatdate(time.time() + 30, usegmt=True)})
    assert date == pytest.approx(30, abs=2)
    assert retry_after_seconds({"retry-after": formatdate(0, usegmt=True)}) == 0
    for nonsense in ("soon", "-1", "nan", ""):
        assert retry_after_seconds({"retry-after": nonsense}) is None
    assert retry_after_seconds({}) is None


@pytest.mark.parametrize("arguments", [{"max_retries": -1}, {"first_delay": -0.1}, {"jitter": 2.0}])
def test_wrong_policies(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        RetryPolicy(**arguments)  # type: ignore[arg-type]
