"""Routes that draw: scaffold, sequence, crop, legibility."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from services.vision.answers import (
    binary_answers,
    entity_tag,
    image_answer,
    image_body,
    json_answer,
    not_modified,
    wanted_format,
)
from services.vision.engine import Engine
from services.vision.imaging import MEDIA_TYPES
from services.vision.intake import read_image_request
from services.vision.problems import OcrNotInstalled
from services.vision.routes.common import IMAGE_PROBLEMS, PREFIX, Caller, engine_of, settings_of
from services.vision.schemas import (
    CropAnswer,
    CropBody,
    CropOptions,
    DrawOptions,
    LegibilityAnswer,
    LegibilityBody,
    ScaffoldAnswer,
    ScaffoldBody,
    ScaffoldOptions,
    SequenceAnswer,
    SequenceBody,
)
from services.vision.wiring import crop_job, legibility_job, overlay_job, prompt_answer
from services.vision.work import Reply
from shared.problems import responses

router = APIRouter(prefix=PREFIX, tags=["vision"])


def _entries(reply: Reply, options: ScaffoldOptions) -> list[dict[str, Any]]:
    """The pictures of a reply with their bytes, as ScaffoldAnswer has them."""
    step = 2 if options.include_original else 1
    entries = []
    for index, facts in enumerate(reply.result["pictures"]):
        entry = {**facts, "image_b64": reply.blobs[step * index], "original_b64": None}
        if options.include_original:
            entry["original_b64"] = reply.blobs[step * index + 1]
        entries.append(entry)
    return entries


def _prompt(options: ScaffoldOptions, entry: dict[str, Any], images: int | None = None) -> Any:
    if options.prompt is None:
        return None
    return prompt_answer(options.prompt, options, entry["matrix"], images).model_dump()


@router.post(
    "/scaffold",
    summary="Draw a dot matrix on an image",
    response_model=ScaffoldAnswer | SequenceAnswer,
    responses={**IMAGE_PROBLEMS, **binary_answers()},
    openapi_extra=image_body(ScaffoldBody),
)
async def scaffold(request: Request, caller: Caller) -> Response:
    """The image with labelled dots, the way back to its pixels and, on request, the prompt.

    `Accept: image/png`, `image/jpeg` or `image/webp` answers with the bytes alone and the facts in
    the `Scaffold-Metadata` header; all frames of an animation (`frame: "all"`) are a sequence.
    """
    asked = await read_image_request(request, ScaffoldOptions, settings_of(request))
    options = asked.options
    form = wanted_format(
        request.headers.get("accept", ""), options.output.format, images=options.frame != "all"
    )
    tag = await entity_tag(asked.images, options, form)
    if (cached := not_modified(request, tag)) is not None:
        return cached
    limits = settings_of(request).limits()
    reply = await engine_of(request).overlay(overlay_job(options, limits, form), asked.images)
    entries = _entries(reply, options)
    if options.frame == "all":
        return await _sequence_answer(entries, options, tag)
    (entry,) = entries
    if form is not None:
        data = entry.pop("image_b64")
        entry.pop("original_b64")
        return image_answer(data, form, entry, tag)
    entry |= {"media_type": MEDIA_TYPES[options.output.format], "prompt": _prompt(options, entry)}
    return await json_answer(entry, tag)


async def _sequence_answer(entries: list[dict[str, Any]], options: ScaffoldOptions, tag: str) -> Response:
    media_type = MEDIA_TYPES[options.output.format]
    images = [{**entry, "media_type": media_type, "prompt": None} for entry in entries]
    prompt = _prompt(options, entries[0], images=len(entries))
    return await json_answer({"images": images, "prompt": prompt}, tag)


@router.post(
    "/sequence",
    summary="Draw the same dot matrix on several images",
    response_model=SequenceAnswer,
    responses={**IMAGE_PROBLEMS, 304: binary_answers()[304]},
    openapi_extra=image_body(SequenceBody, many=True),
)
async def sequence(request: Request, caller: Caller) -> Response:
    """One to sixteen images with labels `(t,x,y)`, t counted from 1 in the given order."""
    asked = await read_image_request(request, ScaffoldOptions, settings_of(request), many=True)
    options = asked.options
    wanted_format(request.headers.get("accept", ""), options.output.format, images=False)
    tag = await entity_tag(asked.images, options, None)
    if (cached := not_modified(request, tag)) is not None:
        return cached
    job = overlay_job(options, settings_of(request).limits(), None, sequence=True)
    reply = await engine_of(request).overlay(job, asked.images)
    return await _sequence_answer(_entries(reply, options), options, tag)


@router.post(
    "/crop",
    summary="Cut out the surroundings of dots",
    response_model=CropAnswer,
    responses={**IMAGE_PROBLEMS, **binary_answers()},
    openapi_extra=image_body(CropBody),
)
async def crop(request: Request, caller: Caller) -> Response:
    """The part of the image around a dot, from the full resolution, with the affine map back.

    `mark: overlay` keeps the labels of the whole image, so that coordinates stay true; `rescaffold`
    draws a matrix of its own on the part.
    """
    asked = await read_image_request(request, CropOptions, settings_of(request))
    options = asked.options
    form = wanted_format(request.headers.get("accept", ""), options.output.format)
    tag = await entity_tag(asked.images, options, form)
    if (cached := not_modified(request, tag)) is not None:
        return cached
    job = crop_job(options, settings_of(request).limits(), form)
    reply = await engine_of(request).view(job, asked.images[0])
    facts = {name: value for name, value in reply.result.items() if name != "to_upright"}
    if form is not None:
        return image_answer(reply.blobs[0], form, facts, tag)
    media_type = MEDIA_TYPES[options.output.format]
    return await json_answer({**facts, "image_b64": reply.blobs[0], "media_type": media_type}, tag)


@router.post(
    "/legibility",
    summary="Read the labels back with OCR",
    response_model=LegibilityAnswer,
    responses={**IMAGE_PROBLEMS, **responses(OcrNotInstalled)},
    openapi_extra=image_body(LegibilityBody),
)
async def legibility(request: Request, caller: Caller) -> Response:
    """Draw on the image and count the labels that an OCR engine reads at their places."""
    asked = await read_image_request(request, DrawOptions, settings_of(request))
    wanted_format(request.headers.get("accept", ""), "jpeg", images=False)
    if not Engine.has_ocr():
        raise OcrNotInstalled("Install the extra `ocr` on the server to check legibility.")
    job = legibility_job(asked.options, settings_of(request).limits())
    reply = await engine_of(request).legibility(job, asked.images[0])
    return await json_answer(reply.result)
