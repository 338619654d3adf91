"""What a model call asks for, read from its body, and the most it can use.

The body is parsed once and never written again: what has to be added for the upstream is spliced in
behind the opening brace. JSON allows any order of members, and OpenAI's own client puts the messages
before the model's name, so the head of the body alone does not tell.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.routing import Metering
from shared.problems import BadRequest, FieldError

MODEL_LENGTH = 200
_MANY = 1 << 40
"""No sum of a reservation grows beyond this, whatever numbers a body holds."""


class InvalidModelCall(BadRequest):
    code, title = "invalid_request_error", "The body is not a model call"


@dataclass(slots=True)
class ModelCall:
    """A parsed call.

    `outputs` answers of at most `max_output` tokens each (None: not bounded by the caller) are asked
    for; `wants_usage` says that the caller itself asked for usage in its stream.
    """

    body: bytes
    fields: dict[str, Any]
    model: str
    stream: bool
    wants_usage: bool
    max_output: int | None
    outputs: int
    images: int

    def prompt_at_most(self, bytes_per_token: float, image_tokens: int) -> int:
        """Tokens the prompt cannot exceed: a token stands for at least one byte of text."""
        return math.ceil(len(self.body) / bytes_per_token) + self.images * image_tokens

    def prompt_expected(self) -> int:
        """Tokens the prompt probably has, for rates and where the upstream does not tell."""
        return max(1, len(self.body) // 4)

    def outgoing(self, *, usage: bool, max_output: int | None) -> bytes:
        """The body for the upstream: with usage in the stream asked for, and bounded if need be."""
        added = b""
        if usage and "stream_options" not in self.fields:
            added += b'"stream_options":{"include_usage":true},'
        if max_output is not None:
            added += b'"max_tokens":%d,' % max_output
        if usage and "stream_options" in self.fields:
            fields = dict(self.fields)
            options = fields["stream_options"]
            fields["stream_options"] = {
                **(options if isinstance(options, dict) else {}),
                "include_usage": True,
            }
            body = orjson.dumps(fields)
        else:
            body = self.body
        if not added:
            return body
        # A whole object was parsed, it has a member, and JSON allows only space before its brace.
        brace = body.index(b"{") + 1
        return body[:brace] + added + body[brace:]

    def for_model(self, model: str) -> ModelCall:
        """The same call to another model."""
        fields = self.fields | {"model": model}
        return ModelCall(
            orjson.dumps(fields), fields, model, self.stream, self.wants_usage,
            self.max_output, self.outputs, self.images,
        )  # fmt: skip


def read_call(body: bytes, metering: Metering) -> ModelCall:
    """Parse the body of a model call.

    Raises:
        InvalidModelCall: it is not a JSON object with a model's name.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidModelCall(f"The body is not JSON: {error}.") from None
    if not isinstance(fields, dict):
        raise InvalidModelCall("The body must be a JSON object.")
    model = fields.get("model")
    if not isinstance(model, str) or not 0 < len(model) <= MODEL_LENGTH or not model.isprintable():
        raise InvalidModelCall(
            "'model' must name a model; GET /v1/models lists them.",
            errors=[FieldError(location="body.model", message="must be the name of a model")],
        )
    stream = fields.get("stream") is True and metering is not Metering.EMBEDDING
    options = fields.get("stream_options")
    return ModelCall(
        body=body,
        fields=fields,
        model=model,
        stream=stream,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
        max_output=_max_output(fields),
        outputs=0 if metering is Metering.EMBEDDING else _outputs(fields, metering),
        # Each of these parts names its kind twice: as its type and as its member.
        images=(body.count(b'"image_url"') + body.count(b'"input_audio"') + 1) // 2,
    )


def _max_output(fields: dict[str, Any]) -> int | None:
    old = _count(fields.get("max_tokens"))
    new = _count(fields.get("max_completion_tokens"))
    if old is None or new is None:
        return new if old is None else old
    return max(old, new)


def _outputs(fields: dict[str, Any], metering: Metering) -> int:
    answers = _count(fields.get("n")) or 1
    if metering is Metering.COMPLETION:
        answers = max(answers, _count(fields.get("best_of")) or 1)
        prompt = fields.get("prompt")
        # A list of texts or of token lists is a batch; a list of numbers is one prompt.
        if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
            answers *= len(prompt)
    return min(answers, _MANY)


def _count(value: object) -> int | None:
    """A positive whole number; anything else the upstream will refuse by itself."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return min(value, _MANY)
    return None
