"""Kinds of work: what a service declares about each, and where a worker finds them.

A service lists its kinds in `services/<name>/jobs.py` as `HANDLERS: dict[str, HandlerSpec]`. Nothing
here imports a service by name in code: modules are found by looking for them, or named in a setting.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from shared.problems import FieldError, Unprocessable

if TYPE_CHECKING:
    from shared.jobs.context import JobContext

DIAGNOSTICS = "shared.jobs.diagnostics"
DAY = 86_400.0
_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")

Run = Callable[["JobContext"], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]


class UnknownKind(Unprocessable):
    code, title = "unknown_kind", "There is no such kind of job here"


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """One kind of work.

    `run` is a function of one JobContext (plain or async) or its address `module:name`, which only
    the job's own process imports. `max_attempts` counts attempts that ended badly without a checkpoint
    between them. `grace_s` lies between the request to stop and SIGKILL. `memory_limit_bytes` bounds the
    resident memory of the job's whole process tree. A process serves `processes_jobs` jobs of one tenant
    before it is replaced: 1 isolates best, more suits many short jobs.
    """

    run: Run | str
    pool: str
    parameters: type[BaseModel]
    scope: str
    timeout_s: float = 3600.0
    memory_limit_bytes: int = 2 << 30
    max_attempts: int = 3
    grace_s: float = 2.0
    backoff_s: float = 1.0
    backoff_limit_s: float = 300.0
    result_ttl_s: float = 7 * DAY
    processes_jobs: int = 1
    description: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.pool):
            raise ValueError(f"pool {self.pool!r}: small letters, digits, '-', '_' and '.' only")
        for name in ("timeout_s", "memory_limit_bytes", "max_attempts", "processes_jobs", "result_ttl_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive")

    def function(self) -> Run:
        """The handler itself, imported if it was named by address."""
        if not isinstance(self.run, str):
            return self.run
        module, _, name = self.run.partition(":")
        found: Run = getattr(importlib.import_module(module), name)
        return found

    def validate(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """`parameters` in their canonical JSON form, defaults filled in.

        Raises:
            Unprocessable: naming each wrong field.
        """
        try:
            model = self.parameters.model_validate(dict(parameters))
        except ValidationError as error:
            fields = [
                FieldError(
                    location=".".join(("body", "parameters", *(str(part) for part in item["loc"]))),
                    message=item["msg"],
                )
                for item in error.errors(include_input=False, include_context=False)
            ]
            detail = "; ".join(f"{field.location}: {field.message}" for field in fields[:3])
            raise Unprocessable(detail, errors=fields[:32]) from None
        return model.model_dump(mode="json")


Handlers = Mapping[str, HandlerSpec]


def find_spec(handlers: Handlers, kind: str) -> HandlerSpec:
    """The spec of `kind`.

    Raises:
        UnknownKind: it is not among `handlers`.
    """
    spec = handlers.get(kind)
    if spec is None:
        raise UnknownKind(f"There is no kind '{kind}'; there are: {', '.join(sorted(handlers)) or 'none'}.")
    return spec


def default_modules() -> tuple[str, ...]:
    """Every `services.<name>.jobs` that exists, and the diagnostics."""
    names = [DIAGNOSTICS]
    services = importlib.util.find_spec("services")
    for found in pkgutil.iter_modules(services.submodule_search_locations or [] if services else []):
        module = f"services.{found.name}.jobs"
        if found.ispkg and importlib.util.find_spec(module) is not None:
            names.append(module)
    return tuple(names)


def load_handlers(modules: Iterable[str] | None = None) -> dict[str, HandlerSpec]:
    """The kinds declared in `modules` (default: `default_modules()`).

    Raises:
        ConfigurationError: a module cannot be imported, declares nothing, or a kind is declared twice.
    """
    handlers: dict[str, HandlerSpec] = {}
    for module in default_modules() if modules is None else modules:
        try:
            declared = importlib.import_module(module).HANDLERS
        except ImportError as error:
            raise _wrong(f"The jobs module {module} cannot be imported: {error}.") from error
        except AttributeError:
            raise _wrong(f"The jobs module {module} has no HANDLERS.") from None
        for kind, spec in declared.items():
            if kind in handlers:
                raise _wrong(f"The kind {kind} is declared twice, the second time in {module}.")
            handlers[kind] = spec
    return handlers


def _wrong(sentence: str) -> Exception:
    # Loaded here: the process of a job reads no settings, and they take as long to load as its handlers.
    from shared.settings import ConfigurationError

    return ConfigurationError(sentence)
