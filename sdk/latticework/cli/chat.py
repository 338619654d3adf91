"""`lattice chat` and `lattice models`."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from typing import Annotated, Any

import typer

from latticework import LatticeworkError
from latticework._chat import ChatChunk, ChatUsage
from latticework.cli._command import command
from latticework.cli._session import CommandError, ExitCode, Session

REPL_HELP = "/reset forgets the conversation, /system TEXT sets the tone, /exit or Ctrl-D leaves."

Model = Annotated[str, typer.Option("--model", "-m", help="Model or alias.")]
System = Annotated[str | None, typer.Option("--system", "-s", help="What the model is told to be.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "chat")(chat)
    command(app, "models")(models)


def chat(
    session: Session,
    message: Annotated[
        str | None, typer.Argument(help="One question; without it a conversation, or stdin when piped.")
    ] = None,
    model: Model = "default",
    system: System = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 is always the same.")] = None,
) -> None:
    """Talk to a model; the answer is shown as it is written."""
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    if message is None and not sys.stdin.isatty():
        message = sys.stdin.read().strip()
    if message is None:
        if session.as_json:
            raise CommandError("With --json give the question as an argument or on stdin.", ExitCode.USAGE)
        Conversation(session, model, system, options).run()
        return
    if not message:
        raise CommandError("There is no question.", ExitCode.USAGE)
    answer = Answer(session, model, options)
    messages = [{"role": "user", "content": message}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    answer.ask(messages)
    if session.as_json:
        session.emit(answer.summary())


class Answer:
    """One answer while it is written."""

    def __init__(self, session: Session, model: str, options: dict[str, Any]) -> None:
        self._session, self._model, self._options = session, model, options
        self.text = ""
        self.finish_reason: str | None = None
        self.model = model
        self.usage: ChatUsage | None = None
        self.first_after: float | None = None
        self.seconds = 0.0

    def ask(self, messages: list[dict[str, str]]) -> str:
        """Ask and show."""
        started = time.monotonic()
        with self._session.client.chat.stream(messages, model=self._model, **self._options) as stream:
            for chunk in stream:
                self._take(chunk, time.monotonic() - started)
        self.seconds = time.monotonic() - started
        if not self._session.as_json:
            print()
            self._show_figures()
        return self.text

    def summary(self) -> dict[str, Any]:
        """The answer as data."""
        return {
            "model": self.model,
            "content": self.text,
            "finish_reason": self.finish_reason,
            "usage": self.usage,
            "seconds": round(self.seconds, 3),
            "seconds_to_first": None if self.first_after is None else round(self.first_after, 3),
        }

    def _take(self, chunk: ChatChunk, after: float) -> None:
        self.model = chunk.model or self.model
        self.usage = chunk.usage or self.usage
        self.finish_reason = chunk.finish_reason or self.finish_reason
        if chunk.text:
            self.first_after = after if self.first_after is None else self.first_after
            self.text += chunk.text
            if not self._session.as_json:
                sys.stdout.write(chunk.text)
                sys.stdout.flush()

    def _show_figures(self) -> None:
        if not self._session.interactive or self.usage is None:
            return
        tokens = self.usage.completion_tokens
        rate = f", {tokens / self.seconds:.1f} tokens/s" if self.seconds else ""
        cut = ", cut at the token limit" if self.finish_reason == "length" else ""
        first = "" if self.first_after is None else f", first after {self.first_after:.2f} s"
        self._session.err.print(f"[dim]{self.model}: {tokens} tokens{rate}{first}{cut}[/]")


class Conversation:
    """Question after question, each with all that was said before."""

    def __init__(self, session: Session, model: str, system: str | None, options: dict[str, Any]) -> None:
        self._session, self._model, self._options = session, model, options
        self._system = system
        self._said: list[dict[str, str]] = []

    def run(self) -> None:
        """Until Ctrl-D."""
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() its line editing and history
        self._session.note(f"[dim]{self._session.client.url}, model {self._model}. {REPL_HELP}[/]")
        while True:
            try:
                line = input("> ").strip()
            except EOFError:
                print()
                return
            if line in ("/exit", "/quit"):
                return
            if line.startswith("/"):
                self._obey(line)
            elif line:
                self._answer(line)

    def _obey(self, line: str) -> None:
        name, _, text = line.partition(" ")
        if name == "/reset":
            self._said.clear()
        elif name == "/system":
            self._system = text.strip() or None
        else:
            self._session.note(REPL_HELP)

    def _answer(self, line: str) -> None:
        head = [{"role": "system", "content": self._system}] if self._system else []
        question = {"role": "user", "content": line}
        answer = Answer(self._session, self._model, self._options)
        try:
            answer.ask([*head, *self._said, question])
        except KeyboardInterrupt:
            print()
        except LatticeworkError as error:
            self._session.err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
            return
        self._said += [question, {"role": "assistant", "content": answer.text}]


def models(session: Session) -> None:
    """List the models that can be asked for."""
    listed = session.client.models.list()
    if session.as_json:
        session.emit(listed)
        return
    session.table("models", ("model", "owner"), [(one.id, one.owned_by) for one in listed])
