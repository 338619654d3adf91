"""What a handler holds while it works. It knows nothing of databases and queues: it talks over a `Line`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import orjson

from shared.identity import Principal

if TYPE_CHECKING:
    from shared.artifacts import ArtifactStore
    from shared.llm import CallBudget, ChatClient

INLINE_BYTES = 64 << 10
"""Checkpoints up to this size are kept on the record, larger ones in the artifact store."""


class Interrupted(BaseException):
    """The handler leaves because a stop was asked for. `except Exception` lets it pass."""


class Line(Protocol):
    """How a handler's words reach the record."""

    @property
    def stop_reason(self) -> str | None: ...

    def report(self, progress: float, message: str | None, metrics: Mapping[str, Any]) -> None: ...

    def save(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the process of a job needs to reach the rest of the suite."""

    artifacts_url: str
    gateway_url: str
    principal_secret: str = field(repr=False)


@dataclass
class JobContext:
    """One attempt at one job, as its handler sees it. Methods may be called from any thread."""

    id: str
    kind: str
    attempt: int
    principal: Principal
    parameters: dict[str, Any]
    dependencies: dict[str, Any]
    deadline: datetime | None
    _saved: Mapping[str, Any] | None = field(repr=False)
    _line: Line = field(repr=False)
    _surroundings: Surroundings = field(repr=False)

    @property
    def tenant(self) -> str:
        """Whose job it is; bounds every row the handler may touch."""
        return self.principal.tenant

    def report(self, progress: float, message: str | None = None, /, **metrics: Any) -> None:
        """Say how far the work is (0 to 1), in words and in numbers. Cheap; never waits.

        Reports closer together than 0.05 s are joined: the newest stands, metrics are merged.
        """
        self._line.report(min(1.0, max(0.0, float(progress))), message, metrics)

    def checkpoint(self, state: Any) -> None:
        """Make `state` (JSON) what `restore` gives to the next attempt; it is durable when this returns.

        Raises:
            Interrupted: the state is saved, and a stop was asked for: let it pass through.
            TypeError: `state` is not JSON.
        """
        data = orjson.dumps(state, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
        if len(data) <= INLINE_BYTES:
            self._line.save({"inline": orjson.loads(data)})
        else:
            ref = self.artifacts.put_bytes(data)
            self._line.save({"artifact": ref.sha256, "size": ref.size})
        if self.should_stop():
            raise Interrupted(self.stop_reason)

    def restore(self) -> Any:
        """The state of the last checkpoint of an earlier attempt; None at the first."""
        if self._saved is None:
            return None
        if "artifact" in self._saved:
            return orjson.loads(self.artifacts.read(self._saved["artifact"]))
        return self._saved["inline"]

    def should_stop(self) -> bool:
        """Whether the handler should save what it has and leave by raising `Interrupted`."""
        return self._line.stop_reason is not None

    @property
    def stop_reason(self) -> str | None:
        """Why: cancel, drain, timeout, deadline; None while nobody asked."""
        return self._line.stop_reason

    @cached_property
    def artifacts(self) -> ArtifactStore:
        """The suite's artifact store."""
        from shared.artifacts import ArtifactStore

        return ArtifactStore(self._surroundings.artifacts_url)

    @property
    def llm(self) -> ChatClient:
        """A chat client that spends on behalf of the job's principal; see `chat` for options."""
        return self.chat()

    def chat(self, *, model: str = "default", budget: CallBudget | None = None) -> ChatClient:
        """A chat client of this job with a model and a budget of its own."""
        from shared.llm import gateway_chat
        from shared.principal import PrincipalSigner

        signer = PrincipalSigner(self._surroundings.principal_secret)
        return gateway_chat(
            self._surroundings.gateway_url, signer, self.principal, model=model, budget=budget
        )
