"""Settings: prefix, defaults, and one sentence for a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.settings import ConfigurationError, ServiceSettings, load_settings

SECRET = "x" * 32


class RoomSettings(ServiceSettings):
    service = "room"
    room_size: int = 3


def test_variables_carry_the_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_PRINCIPAL_SECRET", SECRET)
    monkeypatch.setenv("LATTICEWORK_ROOM_SIZE", "7")
    assert load_settings(RoomSettings).room_size == 7


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATTICEWORK_OTEL_ENDPOINT", "")
    assert load_settings(RoomSettings, principal_secret=SECRET).otel_endpoint is None


def test_dotenv_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(f"LATTICEWORK_PRINCIPAL_SECRET={SECRET}\nLATTICEWORK_ROOM_SIZE=5\n")
    assert load_settings(RoomSettings).room_size == 5


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({}, "LATTICEWORK_PRINCIPAL_SECRET is not set."),
        ({"PRINCIPAL_SECRET": "short"}, "LATTICEWORK_PRINCIPAL_SECRET must have at least 32 characters."),
        ({"PRINCIPAL_SECRET": SECRET, "PORT": "99999"}, "LATTICEWORK_PORT input should be less than"),
        (
            {"PRINCIPAL_SECRET": SECRET, "ROOM_SIZE": "big"},
            "LATTICEWORK_ROOM_SIZE input should be a valid integer",
        ),
        (
            {"PRINCIPAL_SECRET": SECRET, "DATABASE_URL": "mysql://root:hunter2@h/d"},
            "LATTICEWORK_DATABASE_URL must begin with sqlite:// or postgresql:// or postgres://.",
        ),
        (
            {"PRINCIPAL_SECRET": SECRET, "REDIS_URL": "localhost:6379"},
            "LATTICEWORK_REDIS_URL must begin with redis:// or rediss:// or unix://.",
        ),
    ],
)
def test_a_wrong_setting_is_said_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, environment: dict[str, str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in environment.items():
        monkeypatch.setenv(f"LATTICEWORK_{name}", value)
    with pytest.raises(ConfigurationError) as caught:
        load_settings(RoomSettings)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_secrets_do_not_show() -> None:
    settings = load_settings(RoomSettings, principal_secret=SECRET, database_url="postgresql://u:hunter2@h/d")
    assert SECRET not in repr(settings)
    assert "hunter2" not in repr(settings)


def test_defaults_live_under_home(tmp_path: Path) -> None:
    settings = load_settings(RoomSettings, principal_secret=SECRET, home=tmp_path)
    assert settings.resolved_database_url() == f"sqlite:///{tmp_path / 'room.db'}"
    assert settings.resolved_artifacts_url() == str(tmp_path / "artifacts")
