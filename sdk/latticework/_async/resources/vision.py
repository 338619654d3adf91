"""Pictures: dots to point at, the words for them, the way back, and questions to a vision model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from latticework._async._streaming import AsyncStream
from latticework._async.resources._resource import AsyncResource
from latticework._calls import get, post
from latticework._files import FileSource
from latticework._vision import (
    AskOptions,
    CropOptions,
    DrawOptions,
    Format,
    LookEvent,
    Place,
    PromptOptions,
    Rendering,
    ResolveOptions,
    ScaffoldOptions,
    image_call,
    look_events,
    place,
)
from latticework.models import (
    AskAnswer,
    Capabilities,
    CropAnswer,
    LegibilityAnswer,
    PromptWithMessages,
    ResolveAnswer,
    ScaffoldAnswer,
    SequenceAnswer,
)

PATH = "/v1/vision"


class AsyncVision(AsyncResource):
    """`client.vision`. Images are paths, bytes or open files; `answer.image` holds what was drawn."""

    async def scaffold(self, image: FileSource, **options: Unpack[ScaffoldOptions]) -> ScaffoldAnswer:
        """Draw a dot matrix on an image; with `prompt` also the words that make a model use it."""
        return await self._client.fetch(image_call(f"{PATH}/scaffold", [image], options), ScaffoldAnswer)

    async def scaffold_frames(self, image: FileSource, **options: Unpack[ScaffoldOptions]) -> SequenceAnswer:
        """Draw on every frame of an animation."""
        call = image_call(f"{PATH}/scaffold", [image], {**options, "frame": "all"})
        return await self._client.fetch(call, SequenceAnswer)

    async def render(
        self, image: FileSource, *, format: Format = "jpeg", **options: Unpack[ScaffoldOptions]
    ) -> Rendering:
        """As `scaffold`, the quick way: the answer is the bytes of the image, without the list of dots."""
        call = image_call(f"{PATH}/scaffold", [image], options)
        response = await self._client.send(replace(call, accept=f"image/{format}"))
        facts = json.loads(response.headers.get("scaffold-metadata", "{}"))
        return Rendering(response.content, response.headers["content-type"], facts)

    async def sequence(
        self, images: Sequence[FileSource], **options: Unpack[ScaffoldOptions]
    ) -> SequenceAnswer:
        """Draw the same matrix on several images, with labels `(t,row,col)`."""
        return await self._client.fetch(image_call(f"{PATH}/sequence", images, options), SequenceAnswer)

    async def crop(
        self,
        image: FileSource,
        *,
        center: Place | None = None,
        points: Sequence[Place] | None = None,
        **options: Unpack[CropOptions],
    ) -> CropAnswer:
        """Cut out the surroundings of one dot (`center`) or of several (`points`)."""
        where: dict[str, object] = {}
        if center is not None:
            where["center"] = place(center)
        if points is not None:
            where["points"] = [place(point) for point in points]
        call = image_call(f"{PATH}/crop", [image], {**where, **options})
        return await self._client.fetch(call, CropAnswer)

    async def legibility(self, image: FileSource, **options: Unpack[DrawOptions]) -> LegibilityAnswer:
        """Draw, and count the labels that OCR reads at their places."""
        return await self._client.fetch(image_call(f"{PATH}/legibility", [image], options), LegibilityAnswer)

    async def prompt(self, question: str, **options: Unpack[PromptOptions]) -> PromptWithMessages:
        """The words that go with an overlay, also as a list of chat messages."""
        call = post(f"{PATH}/prompt", {"question": question, **options}, replayable=True)
        return await self._client.fetch(call, PromptWithMessages)

    async def resolve(
        self,
        text: str | None = None,
        *,
        points: Sequence[tuple[float, float]] | None = None,
        original: bool = False,
        **options: Unpack[ResolveOptions],
    ) -> ResolveAnswer:
        """Coordinates in a model's words to pixels, and pixels to words.

        Args:
            text: what the model wrote.
            points: (x, y) pixels to name; on the stored image when `original` is set.
            options: `size` and `transform` come with the answer that drew the dots.
        """
        pixels = [{"x": x, "y": y, "original": original} for x, y in points] if points is not None else None
        call = post(f"{PATH}/resolve", {"text": text, "points": pixels, **options}, replayable=True)
        return await self._client.fetch(call, ResolveAnswer)

    async def ask(self, image: FileSource, question: str, **options: Unpack[AskOptions]) -> AskAnswer:
        """Ask a vision model, which may look closer where it points."""
        call = image_call(f"{PATH}/ask", [image], {"question": question, **options}, replayable=None)
        return await self._client.fetch(call, AskAnswer)

    def look(self, image: FileSource, question: str, **options: Unpack[AskOptions]) -> AsyncStream[LookEvent]:
        """As `ask`, told as it happens: each phase when it starts and ends, then the answer."""
        asked = {"question": question, **options, "stream": True}
        call = image_call(f"{PATH}/ask", [image], asked, replayable=None)
        return AsyncStream(self._client, call, look_events())

    async def capabilities(self) -> Capabilities:
        """Formats, styles, modes, limits, and whether a model and OCR are there."""
        return await self._client.fetch(get(f"{PATH}/capabilities"), Capabilities)
