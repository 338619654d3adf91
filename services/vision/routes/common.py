"""What all routes of this service share."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from services.vision.engine import Engine
from services.vision.problems import (
    Busy,
    ImageMalformed,
    ImageTooLarge,
    ImageTooSmall,
    InvalidOptions,
    TimedOut,
    TooManyFrames,
    UnsupportedMediaType,
)
from services.vision.settings import VisionSettings
from shared.principal import Principal, requires
from shared.problems import NotAcceptable, PayloadTooLarge, responses

PREFIX = "/v1/vision"
Caller = Annotated[Principal, Depends(requires("vision"))]

WORD_PROBLEMS = responses(InvalidOptions, UnsupportedMediaType)
IMAGE_PROBLEMS = responses(
    InvalidOptions,
    NotAcceptable,
    PayloadTooLarge,
    UnsupportedMediaType,
    ImageMalformed,
    ImageTooLarge,
    ImageTooSmall,
    TooManyFrames,
    Busy,
    TimedOut,
)


def engine_of(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


def settings_of(request: Request) -> VisionSettings:
    settings: VisionSettings = request.app.state.settings
    return settings
