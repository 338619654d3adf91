"""Answers of engines, made into the answers clients expect: merged, renumbered, translated.

Works on decoded JSON: whole answers, or the chunks of a stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from services.model.protocol.tools import CallStream, parse_call, tool_call

JsonObject = dict[str, Any]


def merge_answers(answers: Sequence[JsonObject], choices_each: int) -> JsonObject:
    """One answer with the choices of all, numbered in order, and the usage of all.

    `choices_each` answers in a row belong to the same prompt.
    """
    first = answers[0]
    choices = [
        {**choice, "index": index}
        for index, choice in enumerate(choice for answer in answers for choice in answer["choices"])
    ]
    merged = {key: value for key, value in first.items() if key not in ("choices", "usage", "timings")}
    usage = add_usage([answer.get("usage") for answer in answers], choices_each)
    return {**merged, "choices": choices, "usage": usage}


def add_usage(usages: Sequence[Mapping[str, Any] | None], choices_each: int) -> JsonObject:
    """The sum of usages; as at OpenAI, a prompt counts once however many choices it has."""
    prompt = completion = cached = 0
    for index, usage in enumerate(usages):
        known = usage or {}
        completion += known.get("completion_tokens", 0)
        if index % choices_each == 0:
            prompt += known.get("prompt_tokens", 0)
            cached += (known.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def with_tool_calls(answer: JsonObject) -> JsonObject:
    """The chat answer with calls that were written as text turned into tool calls."""
    for choice in answer["choices"]:
        message = choice["message"]
        call = parse_call(message.get("content") or "")
        if call is not None:
            message["content"] = None
            message["tool_calls"] = [tool_call(*call)]
            if choice["finish_reason"] == "stop":
                choice["finish_reason"] = "tool_calls"
    return answer


class ToolCallChunks:
    """The same for the chunks of one choice of a stream."""

    def __init__(self) -> None:
        self._calls = CallStream()

    def __call__(self, chunk: JsonObject) -> list[JsonObject]:
        if not chunk.get("choices"):
            return [chunk]
        choice = chunk["choices"][0]
        delta = dict(choice.get("delta") or {})
        deltas = self._calls.feed(delta.pop("content", None) or "")
        reason = choice.get("finish_reason")
        if reason is not None:
            deltas += self._calls.finish()
            if reason == "stop" and self._calls.is_call:
                reason = "tool_calls"
        if delta:
            # The first chunk carries the role; content comes with the decision.
            deltas.insert(0, delta)
        if reason is not None and (not deltas or deltas[-1]):
            deltas.append({})
        head = {
            key: value for key, value in choice.items() if key not in ("delta", "finish_reason", "logprobs")
        }
        chunks: list[JsonObject] = []
        for position, piece in enumerate(deltas):
            last = position == len(deltas) - 1
            translated = {**head, "delta": piece, "finish_reason": reason if last else None}
            if position == 0 and choice.get("logprobs") is not None:
                translated["logprobs"] = choice["logprobs"]
            chunks.append({**chunk, "choices": [translated]})
        return chunks


def without_alternatives(answer: JsonObject) -> JsonObject:
    """The chat answer or chunk with the log probabilities of its own tokens only."""
    for choice in answer.get("choices") or ():
        for token in (choice.get("logprobs") or {}).get("content") or ():
            token["top_logprobs"] = []
    return answer


class LegacyLogprobs:
    """Log probabilities in the shape of text completions, from that of chat completions.

    Chat gives a list of tokens with alternatives; completions give parallel lists and the offset of
    each token in the text, which runs on over the chunks of a stream.
    """

    def __init__(self, top: int, offset: int = 0) -> None:
        self._top = top
        self._offset = offset

    def translate(self, logprobs: Mapping[str, Any] | None) -> JsonObject | None:
        """The `logprobs` of a choice; None stays None, and other shapes stay as they are."""
        if logprobs is None or "content" not in logprobs:
            return dict(logprobs) if logprobs is not None else None
        tokens = logprobs["content"] or []
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(token["token"])
        return {
            "tokens": [token["token"] for token in tokens],
            "token_logprobs": [token["logprob"] for token in tokens],
            "top_logprobs": [self._alternatives(token) for token in tokens] if self._top else None,
            "text_offset": offsets,
        }

    def _alternatives(self, token: Mapping[str, Any]) -> dict[str, float]:
        alternatives = {item["token"]: item["logprob"] for item in token.get("top_logprobs") or ()}
        # OpenAI: the chosen token is always among them.
        alternatives.setdefault(token["token"], token["logprob"])
        return alternatives


def renumbered(chunk: JsonObject, index: int) -> JsonObject:
    """The chunk as part of choice `index` of a larger answer."""
    return {**chunk, "choices": [{**choice, "index": index} for choice in chunk.get("choices") or ()]}


def usage_of(chunk: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The usage in a chunk, wherever the engine puts it."""
    usage = chunk.get("usage")
    return usage if isinstance(usage, Mapping) else None
