"""Where a layer is missing nothing runs; and the same attacks fail as an ordinary user."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from shared.sandbox import Sandbox, SandboxUnavailable, Snapshot
from shared.sandbox.cpython import CPythonRunner
from shared.sandbox.monty import MontyRunner
from tests.unit.sandbox.attacks import Listener, reaching
from tests.unit.sandbox.conftest import SHORT

_GOOD = "def solve(db):\n    return {'columns': ['n'], 'rows': [[len(db.table('people'))]]}"
_FILES = ("read a file", "list files", "look for a file", "write a file", "own memory", "/proc of process 1")


@pytest.mark.parametrize("landlock", ["required", "preferred"])
def test_without_seccomp_nothing_runs(landlock: str) -> None:
    with pytest.raises(SandboxUnavailable, match=r"seccomp|confined"):
        Sandbox(forms=("rows",), landlock=landlock, _absent=frozenset({"seccomp"}))  # type: ignore[arg-type]
    with pytest.raises(SandboxUnavailable):
        MontyRunner(workers=1, absent=frozenset({"seccomp"}))


def test_without_landlock_nothing_runs() -> None:
    with pytest.raises(SandboxUnavailable, match=r"Landlock|confined"):
        Sandbox(forms=("rows",), _absent=frozenset({"landlock"}))
    with pytest.raises(SandboxUnavailable):
        MontyRunner(workers=1, absent=frozenset({"landlock"}))


def test_without_either_nothing_runs() -> None:
    with pytest.raises(SandboxUnavailable):
        Sandbox(forms=("rows",), landlock="preferred", _absent=frozenset({"landlock", "seccomp"}))


def test_without_landlock_by_choice_the_child_runs_and_still_opens_no_file(
    people: Snapshot, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The filter lets no file be opened, so Landlock's absence opens nothing; Monty is not used."""
    with (
        caplog.at_level(logging.WARNING, logger="shared.sandbox.sandbox"),
        Sandbox(forms=("rows",), landlock="preferred", _absent=frozenset({"landlock"})) as sandbox,
    ):
        outcome = sandbox.run(_GOOD, people)
        assert (outcome.rows, outcome.runner) == (((4,),), "cpython")
        assert "landlock" not in sandbox.layers
    assert "Monty cannot be confined" in caplog.text
    (tmp_path / "canary").write_text("CANARY")
    listener = Listener(tmp_path)
    attacks = reaching(tmp_path / "canary", tmp_path, os.getpid(), listener.port)
    runner = CPythonRunner(
        frames=False, landlock_required=False, absent=frozenset({"landlock"}), guards=False
    )
    try:
        for name in _FILES:
            outcome = runner.run(attacks[name].source, people, SHORT, dialect="sqlite", form="rows")
            assert "BREACH" not in repr(outcome.rows), name
    finally:
        runner.close()
        listener.close()


def test_a_closed_sandbox_runs_nothing(people: Snapshot) -> None:
    sandbox = Sandbox(forms=("rows",))
    sandbox.close()
    with pytest.raises(SandboxUnavailable):
        sandbox.run(_GOOD, people)


def test_a_form_that_was_not_started_is_refused(people: Snapshot) -> None:
    with Sandbox(forms=("rows",)) as sandbox, pytest.raises(SandboxUnavailable, match="frames"):
        sandbox.run(_GOOD, people, form="frames")


def test_a_killed_forker_is_started_again(people: Snapshot) -> None:
    runner = CPythonRunner(frames=False, landlock_required=True)
    try:
        assert runner.run(_GOOD, people, SHORT, dialect="sqlite", form="rows").rows == ((4,),)
        process = runner._process
        assert process is not None
        process.kill()
        process.wait()
        assert runner.run(_GOOD, people, SHORT, dialect="sqlite", form="rows").rows == ((4,),)
    finally:
        runner.close()


def test_a_swept_folder_for_temporary_files_is_made_again(people: Snapshot) -> None:
    """Systems clean /tmp; a service that has run for weeks must still start workers."""
    runner = MontyRunner(workers=1)
    try:
        for _ in range(5):
            shutil.rmtree(runner._folder, ignore_errors=True)
            assert runner.run(_GOOD, people, SHORT, dialect="sqlite").rows == ((4,),)
    finally:
        runner.close()
    assert not runner._folder.exists()


def test_children_die_with_the_service(people: Snapshot) -> None:
    """A service that is killed outright leaves no program running."""
    program = (
        "from shared.sandbox import *\nimport os, threading, time\n"
        "s = Sandbox()\nloop = 'def solve(db):\\n    while True:\\n        pass'\n"
        "limits = Limits(cpu_seconds=60, wall_seconds=60)\n"
        "for form in ('rows', 'frames'):\n"
        "    run = lambda form=form: s.run(loop, Snapshot({}), limits, form=form)\n"
        "    threading.Thread(target=run, daemon=True).start()\n"
        "time.sleep(1)\nprint('ready', flush=True)\ntime.sleep(60)"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )
    assert service.stdout is not None
    with service.stdout:
        assert service.stdout.readline() == "ready\n"
        children = psutil.Process(service.pid).children(recursive=True)
        assert len(children) >= 3
        service.kill()
        service.wait()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


@pytest.mark.skipif(os.getuid() != 0, reason="this run is already an ordinary user's")
@pytest.mark.parametrize(
    "chosen",
    ["kernel", pytest.param("not two_hundred", marks=[pytest.mark.slow, pytest.mark.timeout(600)])],
)
def test_an_ordinary_user_is_as_safe(chosen: str) -> None:
    """The attacks again as uid 1000."""
    base = Path(tempfile.mkdtemp(prefix="ordinary-"))
    base.chmod(0o777)
    arguments = [
        *("-v", "-p", "no:cacheprovider", f"--basetemp={base / 'pytest'}", "-k", chosen),
        str(Path(__file__).with_name("test_attacks.py")),
    ]
    try:
        done = subprocess.run(
            [sys.executable, str(Path(__file__).with_name("ordinary_user.py")), *arguments],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
            check=False,
        )
    finally:
        shutil.rmtree(base)
    if "mount refused" in done.stderr:
        pytest.skip("the interpreter lives where ordinary users may not look, and mounts are refused")
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-2_000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
