"""`lattice scaffold` and `lattice look`: pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from latticework._vision import AskOptions, Format, LabelStyle, LookEvent, Mode, Prompt, ScaffoldOptions
from latticework.cli import _images
from latticework.cli._command import command
from latticework.cli._session import CommandError, ExitCode, Session
from latticework.models import AskAnswer, ScaffoldAnswer

FORMATS: dict[str, Format] = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}

Photo = Annotated[Path, typer.Argument(help="Image file.", exists=True, dir_okay=False)]
Side = typer.Option(min=1, max=26)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "scaffold")(scaffold)
    command(app, "look")(look)


def scaffold(
    session: Session,
    photo: Photo,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it: .jpg, .png or .webp.")
    ] = None,
    rows: Annotated[int, Side] = 6,
    cols: Annotated[int, Side] = 6,
    profile: Annotated[
        Literal["legible", "paper"], typer.Option(help="`paper` draws as published.")
    ] = "legible",
    labels: Annotated[LabelStyle, typer.Option(help="How dots are named.")] = "(r,c)",
    grid: Annotated[bool, typer.Option("--grid", help="Thin lines between the dots.")] = False,
    question: Annotated[
        str | None, typer.Option("--question", "-q", help="Also print the prompt for this question.")
    ] = None,
    show: Annotated[bool, typer.Option(help="Show it, in terminals that can.")] = True,
) -> None:
    """Draw a matrix of named dots on an image, so that a model can point into it."""
    protocol = _images.detect() if show and not session.as_json else _images.Protocol.none
    if output is None and protocol is _images.Protocol.none:
        raise CommandError("This terminal shows no images; give a file with -o.", ExitCode.USAGE)
    form = FORMATS.get(output.suffix.lower()) if output is not None else "png"
    if form is None:
        raise CommandError(f"{output} must end in {', '.join(FORMATS)}.", ExitCode.USAGE)
    options = ScaffoldOptions(
        rows=rows, cols=cols, profile=profile, label_style=labels, grid=grid, output={"format": form}
    )
    if question is not None:
        options["prompt"] = Prompt(question=question)
    answer = session.client.vision.scaffold(photo, **options)
    if output is not None:
        _write(output, answer)
    if session.as_json:
        session.emit({"output": str(output), **answer.model_dump(mode="json", exclude={"image_b64"})})
        return
    # Every protocol takes PNG; another format is only written.
    if protocol is not _images.Protocol.none and form == "png":
        _images.show(answer.image, protocol)
    if output is not None:
        session.out.print(_facts(output, answer), markup=False, soft_wrap=True)
    if answer.prompt is not None:
        session.out.print(f"\n{answer.prompt.system}\n\n{answer.prompt.user}", markup=False, soft_wrap=True)


def _write(output: Path, answer: ScaffoldAnswer) -> None:
    try:
        answer.save(output)
    except OSError as error:
        raise CommandError(f"{output} cannot be written: {error.strerror}.") from None


def _facts(output: Path, answer: ScaffoldAnswer) -> str:
    width, height = answer.working_size
    words = [
        f"{output}: {width} x {height}, {answer.matrix.rows} x {answer.matrix.cols} dots",
        f"contrast at least {answer.legibility.min_contrast:.1f}:1",
        f"{sum(answer.timing_ms.values()):.0f} ms",
    ]
    return ", ".join([*words, *answer.warnings])


def look(
    session: Session,
    photo: Photo,
    question: Annotated[str, typer.Argument(help="What to find out.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Another model that takes images.")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="How the image is shown to the model.")] = "scaffold",
    strategy: Annotated[
        Literal["answer", "active_perception", "coarse_to_fine"], typer.Option(help="How it may look closer.")
    ] = "active_perception",
) -> None:
    """Ask a vision model about an image; it may look closer where it points."""
    options = AskOptions(mode=mode, strategy=strategy)
    if model is not None:
        options["model"] = model
    answer: AskAnswer | None = None
    with session.client.vision.look(photo, question, **options) as events:
        for event in events:
            answer = event.answer or answer
            if session.as_json:
                session.emit_line({"event": event.type, **event.data})
            elif event.type == "phase":
                session.note(_phase(event))
    if answer is not None and not session.as_json:
        _show_answer(session, answer)


def _phase(event: LookEvent) -> str:
    phase = str(event.data.get("phase", "")).replace("_", " ")
    if event.data.get("status") == "started":
        crop = event.data.get("crop")
        where = f" at {tuple(crop)}" if crop else ""
        return f"[dim]{phase}{where} ...[/]"
    target: Mapping[str, Any] | None = event.data.get("target")
    found = f" at ({target['row']:g},{target['col']:g})" if target else ""
    reply = escape(json.dumps(event.data.get("reply", ""), ensure_ascii=False))
    return f"[dim]{phase}: {reply}{found}[/]"


def _show_answer(session: Session, answer: AskAnswer) -> None:
    session.out.print(answer.answer or answer.reply, markup=False, soft_wrap=True)
    if answer.point:
        session.out.print(f"at pixel ({answer.point['x']:.0f}, {answer.point['y']:.0f})", style="cyan")
    usage = answer.usage
    session.note(
        f"[dim]{answer.model}: {usage.get('calls', 0)} calls, "
        f"{usage.get('prompt_tokens', 0)} + {usage.get('completion_tokens', 0)} tokens[/]"
    )
