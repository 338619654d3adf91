"""`lattice` in a real terminal: the conversation, the progress bar, colours."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tests.integration.sdk.conftest import KEY
from tests.integration.sdk.server import ScriptedServer
from tests.integration.sdk.test_cli import ANSWER, event, job
from tests.integration.sdk.test_streaming import events

COLOURS = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A command in a pseudo terminal."""

    def __init__(self, server: ScriptedServer, folder: Path, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        environment = {
            "LATTICEWORK_URL": server.url,
            "LATTICEWORK_KEY": KEY,
            "COLUMNS": "100",
            "TERM": "xterm-256color",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "latticework.cli", *arguments],
            cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, **environment},
        )  # fmt: skip
        os.close(theirs)
        self.shown = ""

    def until(self, text: str, seconds: float = 40.0) -> str:
        """Read until `text` is shown."""
        deadline = time.monotonic() + seconds
        while text not in self.shown:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"{text!r} was not shown: {self.shown[-500:]!r}"
            self.shown += os.read(self._ours, 65536).decode()
        return self.shown

    def type(self, line: str) -> None:
        os.write(self._ours, line.encode() + b"\n")

    def end(self) -> int:
        """Read the rest; the exit code."""
        while True:
            try:
                piece = os.read(self._ours, 65536)
            except OSError:
                break
            if not piece:
                break
            self.shown += piece.decode()
        os.close(self._ours)
        return self.process.wait(20)


def test_conversation_remembers_what_was_said(server: ScriptedServer, tmp_path: Path) -> None:
    async def answer(request: Request) -> Response:
        return events(*ANSWER)

    async def break_off(request: Request) -> Response:
        return events(ANSWER[0])

    server.on("POST", "/v1/chat/completions", answer, answer, break_off, answer)
    terminal = Terminal(server, tmp_path, "chat", "--system", "be brief")
    terminal.until("> ")
    terminal.type("First?")
    terminal.until("tokens/s")
    terminal.shown = ""
    terminal.type("Second?")
    terminal.until("tokens/s")
    terminal.type("Broken?")
    terminal.until("error: The stream")
    terminal.type("/reset")
    terminal.shown = ""
    terminal.type("Third?")
    terminal.until("tokens/s")
    terminal.type("/exit")
    assert terminal.end() == 0
    said = [[message["content"] for message in json.loads(body)["messages"]] for body in server.bodies]
    del said[2]
    assert said == [
        ["be brief", "First?"],
        ["be brief", "First?", "Hello there.\n", "Second?"],
        ["be brief", "Third?"],
    ]


def test_job_is_drawn_as_a_bar_with_its_last_metrics(server: ScriptedServer, tmp_path: Path) -> None:
    done = job(state="succeeded", progress=1.0, result={"loss": 0.5})
    server.answer("GET", "/v1/jobs/job_1", JSONResponse(job()), JSONResponse(done))
    told = events(
        event(1, "started"),
        event(2, "progress", progress=0.5, message="step [2]", metrics={"loss": 0.0625}),
        event(3, "progress", progress=0.75, message="step [3]", metrics={}),
        event(4, "retrying", problem={"detail": "The worker went away."}),
        event(5, "succeeded"),
    )
    server.answer("GET", "/v1/jobs/job_1/events", told)
    terminal = Terminal(server, tmp_path, "jobs", "watch", "job_1")
    assert terminal.end() == 0
    shown = COLOURS.sub("", terminal.shown)
    assert "The worker went away." in shown
    last = next(line for line in reversed(shown.splitlines()) if "succeeded" in line)
    assert "100%" in last
    assert "step [3] loss=0.0625" in last
