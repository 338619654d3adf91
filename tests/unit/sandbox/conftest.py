"""One sandbox for the module, a small snapshot, and runners with layers taken away."""

from collections.abc import Iterator

import pytest

from shared.sandbox import Limits, Sandbox, Snapshot, Table
from shared.sandbox.cpython import CPythonRunner

SHORT = Limits(cpu_seconds=1.0, wall_seconds=6.0)


@pytest.fixture(scope="session")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as found:
        yield found


@pytest.fixture(scope="session")
def bare() -> Iterator[CPythonRunner]:
    """The CPython child with the kernel's confinement alone: all builtins, no import list, no hook."""
    runner = CPythonRunner(frames=True, landlock_required=True, guards=False)
    runner.wait_ready()
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def people() -> Snapshot:
    rows = [(1, "Ada", 36, 1.5), (2, "Bob", None, 2.5), (3, None, 41, None), (4, "ada", 36, -0.5)]
    return Snapshot({"people": Table(("id", "name", "age", "score"), rows)}, today="2024-02-29")
