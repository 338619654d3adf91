"""Replaying a question from its trace: recorded replies and recorded timings in, the same answer out.

A trace is plain JSON: the question, the configuration, every model reply, every timing of candidates
and the answer. Programs and SQL are run again; what they give is the database's business.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from services.text2sql.pisql.chat import Recording, ReplayingChat
from services.text2sql.pisql.configuration import Configuration, Limits, TimingSettings
from services.text2sql.pisql.errors import ModelUnavailableError
from services.text2sql.pisql.objects import Answer, Question, to_plain
from services.text2sql.pisql.pipeline import Knowledge, answer
from services.text2sql.pisql.ports import Ports, Similarity, SqlEngine, SqlRun

_CONFIGURATION: TypeAdapter[Configuration] = TypeAdapter(Configuration)
_QUESTION: TypeAdapter[Question] = TypeAdapter(Question)


class RecordedTimes:
    """An engine whose timings are remembered, or answered from memory.

    Timing is the one thing of the pipeline that differs from run to run; everything else follows from
    the replies. Statements that were never timed are timed by the engine inside.
    """

    def __init__(self, inner: SqlEngine, known: Mapping[str, Sequence[float | None]] | None = None) -> None:
        self._inner = inner
        self.times: dict[str, list[float | None]] = {key: list(times) for key, times in (known or {}).items()}

    async def run(self, sql: str, *, limits: Limits) -> SqlRun:
        """Run through the engine inside."""
        return await self._inner.run(sql, limits=limits)

    async def time(
        self, statements: Sequence[str], *, settings: TimingSettings, limits: Limits
    ) -> Sequence[float | None]:
        """Remembered times of these statements, or fresh ones."""
        key = json.dumps(list(statements))
        if key not in self.times:
            self.times[key] = list(await self._inner.time(statements, settings=settings, limits=limits))
        return self.times[key]

    async def cost(self, sql: str) -> float | None:
        """Ask the engine inside."""
        return await self._inner.cost(sql)


class RecordedSimilarity:
    """Comparisons of texts that are remembered, or answered from memory."""

    def __init__(self, inner: Similarity | None, known: Mapping[str, float] | None = None) -> None:
        self._inner = inner
        self.cosines: dict[str, float] = dict(known or {})

    async def compare(self, pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        """Remembered cosines of these pairs, or fresh ones; without a model the latter are missing."""
        fresh = [pair for pair in dict.fromkeys(pairs) if json.dumps(pair) not in self.cosines]
        if fresh:
            if self._inner is None:
                raise ModelUnavailableError("the recording lacks a comparison")
            for pair, cosine in zip(fresh, await self._inner.compare(fresh), strict=True):
                self.cosines[json.dumps(pair)] = round(cosine, 6)
        return [self.cosines[json.dumps(pair)] for pair in pairs]


def make(
    question: Question,
    configuration: Configuration,
    recording: Recording,
    times: Mapping[str, Sequence[float | None]],
    given: Answer,
    cosines: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The trace as JSON data; `cosines` are those of values compared by meaning, None when none were."""
    return {
        "version": 1,
        "question": to_plain(question),
        "configuration": _CONFIGURATION.dump_python(configuration, mode="json"),
        "replies": list(recording.lines()),
        "times_ms": {key: list(values) for key, values in times.items()},
        "cosines": dict(cosines) if cosines is not None else None,
        "fingerprint": given.fingerprint,
        "answer": to_plain(given),
    }


async def replay(trace: Mapping[str, Any], knowledge: Knowledge, ports: Ports) -> Answer:
    """Answer the question of a trace again, without a model.

    `ports` give the sandbox and the database; their chat is not used. When the catalogue has changed
    so that prompts differ, replies are missing and the answer carries the warning `llm_unavailable`.
    """
    recording = Recording(json.loads(line) for line in trace["replies"])
    cosines = trace.get("cosines")
    replaying = dataclasses.replace(
        ports,
        chat=ReplayingChat(recording),
        engine=RecordedTimes(ports.engine, trace["times_ms"]),
        similarity=RecordedSimilarity(None, cosines) if cosines is not None else None,
    )
    return await answer(
        _QUESTION.validate_python(trace["question"]),
        knowledge,
        _CONFIGURATION.validate_python(trace["configuration"]),
        replaying,
    )
