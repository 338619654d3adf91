"""Secrets never reach a log line."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
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


DEFERRED = """
import contextvars, logging, sys, threading
from types import SimpleNamespace
from shared import telemetry
settings = SimpleNamespace(log_level="info", log_format="json", otel_endpoint=None)
telemetry.configure_when_used("room", settings)
logging.getLogger("plain").debug("too low to be written")
assert "structlog" not in sys.modules, "loaded though nothing was written"
"""


def lines_of(code: str) -> list[dict[str, object]]:
    """What a process that runs `code` after `DEFERRED` writes to its log."""
    ended = subprocess.run(
        [sys.executable, "-c", DEFERRED + code], capture_output=True, text=True, check=True
    )
    assert ended.stdout == ""
    return [json.loads(line) for line in ended.stderr.splitlines()]


def test_deferred_logging_writes_what_eager_logging_would() -> None:
    lines = lines_of("""
with telemetry.bound(job_id="job_1"):
    logging.getLogger("plain").warning("at redis://:hunter2@host")
    telemetry.logger("ours").info("it happened", password="hunter2", job_id="another")
    with telemetry.bound(attempt=2):
        logging.getLogger("plain").error("deeper")
    try:
        1 / 0
    except ZeroDivisionError:
        telemetry.logger("ours").exception("it raised")
telemetry.logger("ours").info("after")
""")
    assert [line["event"] for line in lines] == [
        *(f"at redis://{BLANK}@host", "it happened", "deeper", "it raised", "after"),
    ]
    assert [line["level"] for line in lines] == ["warning", "info", "error", "error", "info"]
    assert [line.get("job_id") for line in lines] == ["job_1", "another", "job_1", "job_1", None]
    assert [line.get("attempt") for line in lines] == [None, None, 2, None, None]
    assert lines[1]["password"] == BLANK
    assert "ZeroDivisionError" in str(lines[3]["exception"])
    assert all(line["service"] == "room" and line["timestamp"] for line in lines)


def test_threads_that_write_first_at_once_each_write_once() -> None:
    lines = lines_of("""
start = threading.Barrier(8)
def write(number):
    start.wait()
    if number % 2:
        logging.getLogger("plain").warning(str(number))
    else:
        telemetry.logger("ours").warning(str(number))
threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
""")
    assert sorted(str(line["event"]) for line in lines) == [str(number) for number in range(8)]


def test_a_logger_asked_for_first_is_configured() -> None:
    lines = lines_of("""
telemetry.logger("ours").debug("too low")
telemetry.logger("ours").info("a word", token="hunter2")
""")
    assert [(line["event"], line["token"], line["service"]) for line in lines] == [("a word", BLANK, "room")]


def test_handlers_of_others_stay_when_the_deferred_one_comes() -> None:
    lines = lines_of("""
class Other(logging.Handler):
    seen = []
    def emit(self, record):
        self.seen.append(record.getMessage())
logging.getLogger().addHandler(Other())
logging.getLogger("plain").warning("one")
logging.getLogger("plain").warning("two")
logging.getLogger("plain").warning(str(Other.seen))
""")
    assert [line["event"] for line in lines] == ["one", "two", "['one', 'two']"]
