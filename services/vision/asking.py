"""The look of `/ask`: views made by the workers, replies from the gateway, phases as they run."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from services.vision.engine import Engine
from services.vision.imaging import DecodeOptions, EncodeOptions, Limits, Resize
from services.vision.scaffold import Affine, Box, LookOptions, Matrix, OverlayOptions, look
from services.vision.scaffold.perception import (
    COARSE_TO_FINE,
    Finding,
    Mark,
    PhaseFinished,
    PhaseStarted,
    View,
)
from services.vision.schemas import AskOptions
from services.vision.wiring import LEGIBLE_QUALITY, matrix_of
from services.vision.work import ViewJob
from shared.llm import ChatClient


@dataclass
class WorkerCamera:
    """Makes views of one image in the worker processes; `to_stored` is known after the first."""

    engine: Engine
    image: bytes
    size: tuple[int, int]
    limits: Limits
    options: AskOptions
    model_side: int
    to_stored: Affine = Affine()  # noqa: RUF009 - frozen value

    async def view(self, box: Box | None, mark: Mark, matrix: Matrix) -> View:
        """One view as a data URL, no larger than the model takes it."""
        job = ViewJob(
            limits=self.limits,
            decode=DecodeOptions(
                background=self.options.background, allow_truncated=self.options.allow_truncated
            ),
            overlay=OverlayOptions(matrix=matrix, label_style=self.options.label_style),
            encode=EncodeOptions("jpeg", LEGIBLE_QUALITY),
            mark=mark,
            box=box,
            crop_matrix=matrix,
            resize=self._resize(box),
        )
        reply = await self.engine.view(job, self.image)
        self.size = tuple(reply.result["upright_size"])
        to_upright = Affine.from_rows(reply.result["to_upright"])
        self.to_stored = to_upright.inverse().then(Affine.from_rows(reply.result["transform"]))
        url = "data:image/jpeg;base64," + base64.b64encode(reply.blobs[0]).decode()
        return View(url, tuple(reply.result["working_size"]), to_upright)

    def _resize(self, box: Box | None) -> Resize:
        """Parts are enlarged to a size on which labels fit; the whole only where it is tiny."""
        smallest = min(self.model_side, 512 if box is not None else 256)
        return Resize(max_side=self.model_side, min_side=smallest)


def look_options(options: AskOptions) -> LookOptions:
    """The loop's options."""
    levels = tuple(matrix_of(level) for level in options.levels) if options.levels else COARSE_TO_FINE
    return LookOptions(
        mode=options.mode,
        strategy=options.strategy,
        matrix=Matrix(options.rows, options.cols),
        label_style=options.label_style,
        answer_format=options.answer_format,
        locale=options.locale,
        guidelines=options.guidelines,
        max_crops=options.max_crops,
        crop_radius=options.crop_radius,
        crop_mark=options.crop_mark,
        levels=levels,
    )


async def run_look(
    camera: WorkerCamera, chat: ChatClient, options: AskOptions
) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """(event, data) pairs: `phase` twice per phase, `answer` at the end."""

    async def ask(messages: list[dict[str, Any]]) -> str:
        reply = await chat.chat(messages, temperature=options.temperature, max_tokens=options.max_tokens)
        return reply.text

    async for event in look(camera, ask, options.question, look_options(options)):
        if isinstance(event, PhaseStarted):
            yield "phase", _started(event)
        elif isinstance(event, PhaseFinished):
            yield "phase", _finished(event)
        else:
            yield "answer", _found(event, camera, chat)


def _started(event: PhaseStarted) -> dict[str, Any]:
    images = [
        {"role": role, "size": view.size, "transform": view.transform.rows()}
        for role, view in zip(event.prompt.images, event.views, strict=False)
    ]
    return {
        "phase": event.phase,
        "status": "started",
        "system": event.prompt.system,
        "user": event.prompt.user,
        "template_version": event.prompt.template_version,
        "images": images,
        "crop": _box(event.crop),
    }


def _finished(event: PhaseFinished) -> dict[str, Any]:
    target = event.target
    return {
        "phase": event.phase,
        "status": "finished",
        "reply": event.reply,
        "answer": event.reading.answer,
        "mentions": [
            {"text": m.text, "row": m.row, "col": m.col, "in_range": m.in_range}
            for m in event.reading.mentions[:100]
        ],
        "target": {"row": target.row, "col": target.col} if target else None,
    }


def _found(event: Finding, camera: WorkerCamera, chat: ChatClient) -> dict[str, Any]:
    point = camera.to_stored.apply(*event.point) if event.point else None
    spent = chat.budget.spent
    return {
        "answer": event.answer,
        "reply": event.reply,
        "path": [{"row": row, "col": col} for row, col in event.path],
        "point": {"x": round(point[0], 3), "y": round(point[1], 3)} if point else None,
        "box": _box(event.box),
        "model": chat.model,
        "usage": {
            "calls": spent.calls,
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
        },
    }


def _box(box: Box | None) -> tuple[int, int, int, int] | None:
    return (box.left, box.top, box.right, box.bottom) if box else None
