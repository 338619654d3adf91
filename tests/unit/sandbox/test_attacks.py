"""Every attack is contained: by the sandbox, and by the kernel's confinement alone."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from shared.sandbox import Form, Limits, Sandbox, SandboxOutcome, Snapshot
from shared.sandbox.cpython import CPythonRunner
from tests.unit.sandbox.attacks import REACHING_NAMES, Attack, Listener, exhausting, reaching
from tests.unit.sandbox.conftest import SHORT


@dataclass
class Scene:
    """What the attackers would like to reach."""

    directory: Path
    attacks: dict[str, Attack]
    listener: Listener

    def check_untouched(self) -> None:
        assert not self.listener.heard()
        assert sorted(path.name for path in self.directory.iterdir()) == ["canary", "link", "socket"]
        assert (self.directory / "canary").read_text() == "CANARY"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("scene")
    directory.chmod(0o777)
    canary = directory / "canary"
    canary.write_text("CANARY")
    canary.chmod(0o666)
    (directory / "link").symlink_to(canary)
    listener = Listener(directory)
    yield Scene(directory, reaching(canary, directory, os.getpid(), listener.port), listener)
    listener.close()


def assert_contained(outcome: SandboxOutcome, attack: Attack) -> None:
    assert outcome.status in attack.contained, outcome
    assert "BREACH" not in repr(outcome.rows), outcome
    assert "CANARY" not in repr(outcome), outcome


@pytest.mark.parametrize("form", ["rows", "frames"])
@pytest.mark.parametrize("name", REACHING_NAMES)
def test_nothing_outside_is_reached(
    sandbox: Sandbox, scene: Scene, people: Snapshot, name: str, form: Form
) -> None:
    attack = scene.attacks[name]
    assert_contained(sandbox.run(attack.source, people, SHORT, form=form), attack)
    scene.check_untouched()


@pytest.mark.parametrize("name", REACHING_NAMES)
def test_the_kernel_alone_holds(bare: CPythonRunner, scene: Scene, people: Snapshot, name: str) -> None:
    """Without the import list, the builtins and the audit hook."""
    attack = scene.attacks[name]
    outcome = bare.run(attack.source, people, SHORT, dialect="sqlite", form="frames")
    assert outcome.status in (*attack.contained, "timeout"), outcome
    assert "BREACH" not in repr(outcome.rows), outcome
    scene.check_untouched()


@pytest.mark.parametrize(
    ("form", "name"),
    [
        *(("rows", name) for name in ("read a file", "list files", "own environment")),
        *(("frames", name) for name in ("read a file", "list files", "own environment", "TCP", "fork")),
        *(("frames", name) for name in ("start a program", "raw execve", "eval", "unpickle")),
    ],
)
def test_an_attempt_counts_even_if_the_program_hides_it(
    sandbox: Sandbox, scene: Scene, people: Snapshot, form: Form, name: str
) -> None:
    outcome = sandbox.run(scene.attacks[name].source, people, SHORT, form=form)
    assert outcome.status == "denied"
    assert outcome.error is not None
    assert outcome.error.step == 1 or outcome.runner == "monty"


@pytest.mark.parametrize(
    "name", ["read a file", "list files", "TCP", "subprocess", "executable memory", "subclass walk", "ATTACH"]
)
def test_the_attacks_work_where_nothing_confines_them(scene: Scene, tmp_path: Path, name: str) -> None:
    """Else their containment would prove nothing."""
    directory = tmp_path / "open"
    directory.mkdir()
    (directory / "canary").write_text("CANARY")
    attack = reaching(directory / "canary", directory, os.getpid(), scene.listener.port)[name]
    program = f"{attack.source}\nprint(solve(None))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "BREACH" in done.stdout
    if name == "TCP":
        scene.listener.tcp.accept()[0].close()


@pytest.mark.parametrize("form", ["rows", "frames"])
@pytest.mark.parametrize("attack", exhausting(), ids=lambda attack: attack.name)
def test_nothing_is_used_beyond_the_limits(
    sandbox: Sandbox, people: Snapshot, attack: Attack, form: Form
) -> None:
    # what is to end for another reason has time to, however busy the machine
    limits = SHORT if "timeout" in attack.contained else Limits(cpu_seconds=20.0, wall_seconds=60.0)
    started = time.monotonic()
    assert_contained(sandbox.run(attack.source, people, limits, form=form), attack)
    assert time.monotonic() - started < 2 * SHORT.wall_seconds + 10, "both runners may have had their turn"


def test_a_sleeper_is_killed_at_the_wall(bare: CPythonRunner, people: Snapshot) -> None:
    program = "import time\ndef solve(db):\n    time.sleep(1000)"
    limits = Limits(cpu_seconds=1.0, wall_seconds=0.5)
    outcome = bare.run(program, people, limits, dialect="sqlite", form="rows")
    assert outcome.status == "timeout"
    assert 450 < outcome.wall_ms < 6_000


def test_output_after_the_timeout_is_not_believed(bare: CPythonRunner, people: Snapshot) -> None:
    """A child that writes a whole result and then goes on is a timeout, not a result."""
    forged = '{"status":"ok","columns":["a"],"rows":[[1]],"row_count":1,"digest":"' + "0" * 32 + '"}'
    program = f"import os, time\ndef solve(db):\n    os.write(3, b'{forged}')\n    time.sleep(1000)"
    outcome = bare.run(program, people, Limits(wall_seconds=0.5), dialect="sqlite", form="rows")
    assert (outcome.status, outcome.rows) == ("timeout", ())


@pytest.mark.parametrize(
    "written",
    [
        b"not json",
        b'{"status": "ok"',
        b'{"status":"ok","columns":["a"],"rows":[[NaN]],"row_count":1,"digest":"' + b"0" * 32 + b'"}',
        b'{"status":"ok","columns":["a"],"rows":[[1,2]],"row_count":1,"digest":"' + b"0" * 32 + b'"}',
        b'{"status":"ok","columns":["a"],"rows":[[{"x":1}]],"row_count":1,"digest":"' + b"0" * 32 + b'"}',
        b'{"status":"ok","columns":["a"],"rows":[[1]],"row_count":0,"digest":"' + b"0" * 32 + b'"}',
        b'{"status":"fine"}',
        b'{"status":"ok","columns":["a"],"rows":[],"row_count":0,"digest":null,"extra":1}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_forged_report_breaks_the_contract(bare: CPythonRunner, people: Snapshot, written: bytes) -> None:
    program = f"import os\ndef solve(db):\n    os.write(3, {written!r})\n    os._exit(0)"
    assert bare.run(program, people, SHORT, dialect="sqlite", form="rows").status == "contract"


def test_a_flood_of_output_is_too_big(bare: CPythonRunner, people: Snapshot) -> None:
    loop = "for i in range(999):\n        os.write(3, b'x' * 65536)"
    program = f"import os\ndef solve(db):\n    {loop}\n    os._exit(0)"
    outcome = bare.run(program, people, Limits(wall_seconds=5), dialect="sqlite", form="rows")
    assert outcome.status == "too_big"


def test_errors_of_the_interpreter_are_cut(bare: CPythonRunner, people: Snapshot) -> None:
    program = "import os\ndef solve(db):\n    os.write(2, b'e' * 1_000_000)\n    os._exit(7)"
    outcome = bare.run(program, people, SHORT, dialect="sqlite", form="rows")
    assert outcome.status == "error"
    assert outcome.error is not None
    assert len(outcome.error.message) < 2_200


def test_a_crash_of_the_interpreter_is_an_error(bare: CPythonRunner, people: Snapshot) -> None:
    program = "import ctypes\ndef solve(db):\n    ctypes.string_at(0)"
    outcome = bare.run(program, people, SHORT, dialect="sqlite", form="rows")
    assert outcome.status == "error"
    assert "signal" in (outcome.error.message if outcome.error else "")


def test_the_snapshot_cannot_be_changed(bare: CPythonRunner, people: Snapshot) -> None:
    """Two programs of one snapshot share its file; the first cannot write what the second reads."""
    write = (
        "import ctypes, gc, mmap\ndef solve(db):\n"
        "    maps = [m for m in gc.get_objects() if isinstance(m, mmap.mmap)]\n"
        "    try:\n        maps[0][20] = 0\n    except BaseException:\n        pass\n"
        "    return {'columns': ['n'], 'rows': [[len(maps)]], 'ordered': False}"
    )
    read = (
        "def solve(db):\n    return {'columns': ['n'], 'rows': [[len(db.table('people'))]], 'ordered': False}"
    )
    bare.run(write, people, SHORT, dialect="sqlite", form="rows")
    assert bare.run(read, people, SHORT, dialect="sqlite", form="rows").rows == ((4,),)


def _processes() -> set[str]:
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True)
    mine = {str(os.getpid())}
    found: set[str] = set()
    for _ in range(4):  # children of children
        for line in listed.stdout.splitlines()[1:]:
            pid, parent, arguments = line.split(maxsplit=2)
            if parent in mine and not arguments.startswith("ps "):
                mine.add(pid)
                found.add(pid)
    return found


def test_two_hundred_runs_leave_nothing(people: Snapshot) -> None:
    """No process, no descriptor, no thread and no file stays behind, whatever the programs did."""
    good = "def solve(db):\n    return {'columns': ['n'], 'rows': [[len(db.table('people'))]]}"
    programs = [
        good,
        "def solve(db):\n    return 1 / 0",
        "import os\ndef solve(db):\n    os.fork()",
        "def solve(db):\n    def f():\n        yield [1]\n    return {'columns': ['a'], 'rows': list(f())}",
    ]
    before, open_before = _processes(), _descriptors()
    with Sandbox() as sandbox:
        statuses = []
        for number in range(200):
            form: Form = "frames" if number % 4 == 3 else "rows"
            program = programs[number % 4] if number % 8 < 4 else good
            statuses.append(sandbox.run(program, people, form=form).status)
    assert (statuses.count("ok"), statuses.count("error"), statuses.count("denied")) == (150, 25, 25)
    assert _processes() <= before
    assert _descriptors() <= open_before + 1, "the telemetry of Monty's client may keep one"


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
