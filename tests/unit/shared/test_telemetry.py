"""Secrets never reach a log line."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import pytest

from shared.telemetry import BLANK, configure, hide_secrets, logger


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "hunter2"),
        ("principal_secret", "hunter2"),
        ("authorization", "Bearer hunter2"),
        ("api_key", "hunter2"),
        ("token", "hunter2"),
    ],
)
def test_fields_named_like_secrets_are_blanked(name: str, value: str) -> None:
    assert hide_secrets(None, "info", {name: value, "inner": {name: value}}) == {
        name: BLANK,
        "inner": {name: BLANK},
    }


def test_values_that_look_like_secrets_are_blanked_wherever_they_stand() -> None:
    event = hide_secrets(
        None,
        "info",
        {
            "event": "key lw_abcdefghijklmnop used",
            "where": "postgresql://user:hunter2@host/db",
            "queue": "redis://:hunter2@host/0",
            "items": ["eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"],
            "prompt_tokens": 12,
        },
    )
    assert "abcdefgh" not in event["event"]
    assert event["where"] == f"postgresql://{BLANK}@host/db"
    assert event["queue"] == f"redis://{BLANK}@host/0"
    assert event["items"] == [BLANK]
    assert event["prompt_tokens"] == 12


def test_a_log_line_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        configure("room", SimpleNamespace(log_level="info", log_format="json", otel_endpoint=None))
        logger("test").info("it happened", password="hunter2", count=3)
        logging.getLogger("plain").warning("from a library")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines[0]["event"] == "it happened"
    assert lines[0]["password"] == BLANK
    assert lines[0]["service"] == "room"
    assert lines[1]["event"] == "from a library"
