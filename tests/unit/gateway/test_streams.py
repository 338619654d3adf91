"""The meter of streams: whatever way the bytes are torn, the same comes out and the same is counted."""

from __future__ import annotations

from itertools import pairwise

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.proxy.usage import StreamMeter, Tokens, usage_of_answer

WORD = b'data: {"choices":[{"delta":{"content":"data: [DONE] \\n\\n \\"usage\\": {"}}]}\n\n'
NULL = b'data: {"choices":[{"delta":{}}],"usage":null}\n\n'
BOTH = b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":5,"completion_tokens":2}}\n\n'
ONLY = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
CRLF = ONLY.replace(b"\n", b"\r\n")
COMMENT = b": ping\n\n"
ODD = b"data: not json\n\n"
DONE = b"data: [DONE]\n\n"

events = st.lists(st.sampled_from([WORD, NULL, BOTH, ONLY, CRLF, COMMENT, ODD]), max_size=8)


def torn(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in pairwise(edges)]


@given(parts=events, cuts=st.lists(st.integers(0, 5000), max_size=12), strip=st.booleans())
def test_torn_streams(parts: list[bytes], cuts: list[int], strip: bool) -> None:
    stream = b"".join(parts) + DONE
    meter = StreamMeter(strip)
    out = b"".join(meter.feed(piece) for piece in torn(stream, cuts)) + meter.rest()
    kept = [part for part in parts if not (strip and part in (ONLY, CRLF))]
    assert out == b"".join(kept) + DONE
    assert meter.done
    counted = [part for part in parts if part in (WORD, NULL, BOTH, ODD)]
    assert meter.chunks == len(counted)
    reported = [part for part in parts if part in (BOTH, ONLY, CRLF)]
    if not reported:
        assert meter.tokens is None
    else:
        assert meter.tokens == (Tokens(5, 2, 0) if reported[-1] == BOTH else Tokens(7, 3, 0))


@given(cuts=st.lists(st.integers(0, 5000), max_size=12))
def test_without_stripping_nothing_is_held_back(cuts: list[int]) -> None:
    meter = StreamMeter(strip=False)
    for piece in torn(WORD + ONLY + DONE, cuts):
        assert meter.feed(piece) == piece


def test_whole_events_are_never_held_back() -> None:
    meter = StreamMeter(strip=True)
    assert meter.feed(WORD + WORD[:10]) == WORD
    assert meter.feed(WORD[10:]) == WORD


def test_an_endless_line_is_not_held_for_ever() -> None:
    meter = StreamMeter(strip=True)
    out = b"".join(meter.feed(b"x" * 10_000) for _ in range(20))
    assert len(out) > 100_000


def test_a_stream_that_stops_in_an_event_gives_back_what_was_held() -> None:
    meter = StreamMeter(strip=True)
    assert meter.feed(WORD + b'data: {"cho') == WORD
    assert meter.rest() == b'data: {"cho'
    assert not meter.done


@pytest.mark.parametrize("whole", [True, False])
def test_usage_of_json_answers(whole: bool) -> None:
    usage = {
        "prompt_tokens": 11,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    text = 'he said "usage": {"prompt_tokens": 1} and {'
    answer = orjson.dumps({"choices": [{"message": {"content": text}}], "usage": usage, "x": 1})
    assert usage_of_answer(answer, whole) == Tokens(11, 5, 4)
    long_answer = orjson.dumps({"data": [0.25] * 20_000, "usage": {"prompt_tokens": 9}})
    assert usage_of_answer(long_answer[-65536:], whole) == Tokens(9, 0, 0)


@pytest.mark.parametrize(
    "usage", [None, 3, {}, {"prompt_tokens": "7"}, {"prompt_tokens": 7, "completion_tokens": "x"}]
)
def test_usage_that_is_none(usage: object) -> None:
    assert usage_of_answer(orjson.dumps({"usage": usage}), whole=True) is None


def test_nonsense_numbers_do_not_become_credit() -> None:
    lying = {"prompt_tokens": -5, "completion_tokens": -1, "prompt_tokens_details": {"cached_tokens": 99}}
    assert usage_of_answer(orjson.dumps({"usage": lying}), whole=True) == Tokens(0, 0, 0)
    many = {"prompt_tokens": 5, "completion_tokens": 0, "prompt_tokens_details": {"cached_tokens": 99}}
    assert usage_of_answer(orjson.dumps({"usage": many}), whole=True) == Tokens(5, 0, 5)
