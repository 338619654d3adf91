"""The sandbox: two runners behind one door, both failing closed (Pi-SQL section 8).

`rows` programs go to Monty; what Monty cannot parse or lacks goes to the CPython child, as do
all `frames` programs. When a layer of confinement is missing nothing runs at all.
"""

import asyncio
import logging
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal, Self

from shared.sandbox.contract import (
    PROGRAM_BYTES,
    Dialect,
    Form,
    Limits,
    ProgramError,
    SandboxOutcome,
    SandboxUnavailable,
    Snapshot,
)
from shared.sandbox.cpython import CPythonRunner

_log = logging.getLogger(__name__)
_STEP = re.compile(r"\s*#\s*step\s+(\d+)", re.IGNORECASE)
_DEFAULT_LIMITS = Limits()
_PROBE = (
    "def solve(db):\n    return {'columns': ['n'], 'rows': [[len(db.table('probe'))]], 'ordered': False}\n"
)


class Sandbox:
    """Runs model-written programs. Construct once per process; thread-safe; close when done."""

    def __init__(
        self,
        *,
        workers: int = 2,
        forms: tuple[Form, ...] = ("rows", "frames"),
        landlock: Literal["required", "preferred"] = "required",
        _absent: frozenset[str] = frozenset(),
    ) -> None:
        """Start the runners and prove them confined.

        `workers` programs run at a time. `landlock` "preferred" is for kernels older than 5.13:
        the CPython child then runs without it, since its filter lets no file be opened anyway,
        and Monty is not used, since starting it needs files. Raises SandboxUnavailable.
        """
        self._forms = forms
        self._slots = threading.BoundedSemaphore(workers)
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="sandbox")
        self._monty: Any = None
        self._cpython = CPythonRunner(
            frames="frames" in forms, landlock_required=landlock == "required", absent=_absent
        )
        try:
            if "rows" in forms:
                from shared.sandbox.monty import MontyRunner

                self._start_monty(MontyRunner, workers, _absent, landlock)
            self._cpython.wait_ready()
            self._probe()
        except BaseException:
            self.close()
            raise

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of confinement in force, for the readiness page."""
        return (*self._cpython.layers, *(("monty",) if self._monty else ()))

    def run(
        self,
        program: str,
        data: Snapshot,
        limits: Limits = _DEFAULT_LIMITS,
        *,
        dialect: Dialect = "sqlite",
        form: Form = "rows",
    ) -> SandboxOutcome:
        """Run one program over a snapshot; blocks until it ended and a worker was free.

        Never raises for what the program does. Raises SandboxUnavailable when it cannot be
        confined, TypeError for a snapshot with values that have no plain form.
        """
        if form not in self._forms:
            raise SandboxUnavailable(f"this sandbox was not started for {form!r} programs")
        if len(program.encode("utf-8", "surrogatepass")) > PROGRAM_BYTES:
            message = f"the program is longer than {PROGRAM_BYTES} bytes"
            return SandboxOutcome("contract", error=ProgramError("ContractViolation", message))
        program = program.encode("utf-8", "replace").decode()
        with self._slots:
            outcome = self._run_once(program, data, limits, dialect, form, seed=1)
            for number in range(2, limits.runs + 1):
                if outcome.status not in ("ok", "empty"):
                    break
                again = self._run_once(program, data, limits, dialect, form, seed=number)
                if not _same(outcome, again):
                    error = ProgramError("Nondeterministic", "two runs gave different results")
                    outcome = SandboxOutcome("nondeterministic", error=error, runner=outcome.runner)
        if outcome.status == "denied":
            _log.warning("a program was denied: %s", outcome.error and outcome.error.message)
        return _with_step(outcome, program)

    async def run_async(
        self,
        program: str,
        data: Snapshot,
        limits: Limits = _DEFAULT_LIMITS,
        *,
        dialect: Dialect = "sqlite",
        form: Form = "rows",
    ) -> SandboxOutcome:
        """`run` without blocking the event loop; at most `workers` at a time, the rest wait."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._threads, lambda: self.run(program, data, limits, dialect=dialect, form=form)
        )

    def close(self) -> None:
        """End every process of the sandbox."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._monty is not None:
            self._monty.close()
        self._cpython.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start_monty(self, runner: Any, workers: int, absent: frozenset[str], landlock: str) -> None:
        try:
            self._monty = runner(workers=workers, absent=absent)
        except SandboxUnavailable:
            if landlock == "required":
                raise
            _log.warning("Monty cannot be confined here; rows programs run in the CPython child")

    def _run_once(
        self, program: str, data: Snapshot, limits: Limits, dialect: str, form: str, seed: int
    ) -> SandboxOutcome:
        if form == "rows" and self._monty is not None:
            from shared.sandbox.monty import CPYTHON_MAY_KNOW

            outcome: SandboxOutcome = self._monty.run(program, data, limits, dialect=dialect, seed=seed)
            lacking = outcome.status == "error" and outcome.error and outcome.error.type in CPYTHON_MAY_KNOW
            if not lacking:
                return outcome
        return self._cpython.run(program, data, limits, dialect=dialect, form=form, seed=seed)

    def _probe(self) -> None:
        """One honest program through each runner. Raises SandboxUnavailable when it fails."""
        from shared.sandbox.contract import Table

        data = Snapshot({"probe": Table(("n",), [(1,), (2,)])})
        runners = [self._cpython.run(_PROBE, data, _DEFAULT_LIMITS, dialect="sqlite", form="rows")]
        if self._monty is not None:
            runners.append(self._monty.run(_PROBE, data, _DEFAULT_LIMITS, dialect="sqlite"))
        for outcome in runners:
            if outcome.rows != ((2,),):
                raise SandboxUnavailable(f"the {outcome.runner} runner does not work here: {outcome.error}")


def _same(first: SandboxOutcome, second: SandboxOutcome) -> bool:
    """Whether two runs agree, in order too where order is claimed."""
    alike = (first.status, first.columns, first.row_count, first.digest, first.ordered) == (
        *(second.status, second.columns, second.row_count, second.digest, second.ordered),
    )
    return alike and (not first.ordered or first.rows == second.rows)


def _with_step(outcome: SandboxOutcome, program: str) -> SandboxOutcome:
    """The outcome with the step of the failing line: the last `# Step n:` at or above it."""
    if outcome.error is None or outcome.error.line is None:
        return outcome
    step = None
    for text in program.splitlines()[: outcome.error.line]:
        mark = _STEP.match(text)
        step = int(mark[1]) if mark else step
    return replace(outcome, error=replace(outcome.error, step=step))
