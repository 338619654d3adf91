"""`python -m benchmarks.sandbox`: overhead per program, peers beside it, memory after a thousand.

The program reads a table of a hundred rows, filters and projects: what it computes itself takes
well under a millisecond, so nearly all that is measured is the sandbox.
"""

import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pydantic_monty

from services.text2sql.gate import admit
from shared.sandbox import Limits, Sandbox, Snapshot, Table
from shared.sandbox.cpython import CPythonRunner
from shared.sandbox.monty import MontyRunner
from shared.sandbox.tables import helper_source

RESULTS = Path(__file__).with_name("results")
ROWS = """
def solve(db):
    # Step 1: load
    people = db.table("people", where=[("id", "<", 50)])
    # Step 2: project
    rows = [[row["id"], row["name"]] for row in people if row["id"] % 10 == 0]
    return {"columns": ["id", "name"], "rows": rows, "ordered": False}
"""
FRAMES = """
def solve(db):
    # Step 1: load
    people = db.table("people", where=[("id", "<", 50)])
    # Step 2: project
    tens = people[people["id"] % 10 == 0]
    return {"columns": ["id", "name"], "rows": tens[["id", "name"]], "ordered": False}
"""
STATEMENT = (
    "SELECT p.city, COUNT(*) AS n FROM people AS p JOIN orders AS o ON o.person_id = p.id "
    "WHERE o.total > 100 AND p.name LIKE 'A%' GROUP BY p.city ORDER BY n DESC LIMIT 5"
)
RUNS = int(os.environ.get("RUNS", "60"))


def milliseconds(work: Callable[[], object], runs: int = RUNS, pause: float = 0.0) -> dict[str, float]:
    """Least, median and 95th percentile of one call, in milliseconds, after two unmeasured ones."""
    taken = []
    for number in range(runs + 2):
        time.sleep(pause)
        start = time.perf_counter()
        work()
        if number >= 2:
            taken.append((time.perf_counter() - start) * 1e3)
    return {
        "least": min(taken),
        "p50": statistics.median(taken),
        "p95": statistics.quantiles(taken, n=20)[18],
    }


def people(rows: int = 100) -> Snapshot:
    return Snapshot({"people": Table(("id", "name", "age"), [(i, f"name {i}", i % 90) for i in range(rows)])})


def measure_sandbox(found: dict[str, Any]) -> None:
    start = time.perf_counter()
    with Sandbox() as sandbox:
        found["start of the sandbox"] = {"least": (time.perf_counter() - start) * 1e3}
        time.sleep(1)
        data = people()
        found["rows, Monty, a worker parked"] = milliseconds(lambda: sandbox.run(ROWS, data), pause=0.15)
        found["rows, Monty, one after the other"] = milliseconds(lambda: sandbox.run(ROWS, data))
        generator = ROWS + "\ndef unused():\n    yield 1\n"
        found["rows, what Monty lacks, in the child"] = milliseconds(
            lambda: sandbox.run(generator, data), pause=0.15
        )
        found["frames, CPython child"] = milliseconds(lambda: sandbox.run(FRAMES, data, form="frames"))
        large = people(20_000)
        found["rows, 20,000 rows read"] = milliseconds(
            lambda: sandbox.run(ROWS.replace("50", "20000"), large), runs=RUNS // 3, pause=0.15
        )
        found["frames, 20,000 rows read"] = milliseconds(
            lambda: sandbox.run(FRAMES.replace("50", "20000"), large, form="frames"), runs=RUNS // 3
        )


def measure_peers(found: dict[str, Any]) -> None:
    """The same without confinement, and what a process per program would cost."""
    runner = MontyRunner(workers=1)
    found["a confined Monty worker, started and fed"] = milliseconds(
        lambda: runner._fresh(("sqlite", 5.0, 256, 1)).__exit__(None, None, None), runs=RUNS // 3
    )
    runner.close()
    data = people()
    host = [dict(zip(("id", "name", "age"), row, strict=True)) for row in data.tables["people"].rows[:50]]
    with pydantic_monty.Monty() as pool:

        def unconfined() -> None:
            with pool.checkout() as session:
                session.feed_run(helper_source("sqlite"))
                session.feed_run(
                    f"{ROWS}\nclass D:\n    def table(self, n, columns=None, where=None):\n"
                    "        return _t()\n\nsolve(D())",
                    external_lookup={"_t": lambda: host},
                )

        found["peer: Monty, unconfined, worker reused"] = milliseconds(unconfined)
    child = CPythonRunner(frames=False, landlock_required=True)
    found["rows, CPython child without pandas"] = milliseconds(
        lambda: child.run(ROWS, data, Limits(), dialect="sqlite", form="rows")
    )
    child.close()
    python = [sys.executable, "-c"]
    found["peer: a fresh python"] = milliseconds(
        lambda: subprocess.run([*python, "pass"], check=True), runs=10
    )
    found["peer: a fresh python with pandas"] = milliseconds(
        lambda: subprocess.run([*python, "import pandas"], check=True), runs=5
    )
    numbers = itertools.count()  # the gate remembers statements, so each is another
    found["SQL gate, a join with grouping"] = milliseconds(
        lambda: admit(f"{STATEMENT} OFFSET {next(numbers)}", "sqlite", ["people", "orders"])
    )


def measure_memory(found: dict[str, Any], programs: int = 1_000) -> None:
    """Resident memory of this process and all it started, before and after a thousand programs."""

    def resident() -> float:
        me = psutil.Process()
        return sum(p.memory_info().rss for p in (me, *me.children(recursive=True))) / 2**20

    def one(sandbox: Sandbox, number: int) -> None:
        sandbox.run(ROWS if number % 2 else FRAMES, people(), form="rows" if number % 2 else "frames")

    with Sandbox() as sandbox:
        for number in range(100):
            one(sandbox, number)
        time.sleep(1)
        before, start = resident(), time.perf_counter()
        for number in range(programs):
            one(sandbox, number)
        seconds = time.perf_counter() - start
        time.sleep(1)
        after = resident()
    left = psutil.Process().children(recursive=True)
    found["memory"] = {
        "programs": programs,
        "seconds": seconds,
        "before_mib": before,
        "after_mib": after,
        "processes_left": len(left),
    }


def main() -> None:
    """Print the table and write it as JSON."""
    found: dict[str, Any] = {}
    measure_sandbox(found)
    measure_peers(found)
    memory: dict[str, Any] = {}
    measure_memory(memory)
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; {RUNS} runs each\n")
    print(f"| {'one program':44} | least ms | p50 ms | p95 ms |")
    print(f"| {'-' * 44} | ---: | ---: | ---: |")
    for name, times in found.items():
        shown = " | ".join(f"{times[key]:.1f}" if key in times else "" for key in ("least", "p50", "p95"))
        print(f"| {name:44} | {shown} |")
    told = memory["memory"]
    print(f"\n{told['programs']} programs, half rows and half frames, in {told['seconds']:.0f} s:")
    print(f"resident memory {told['before_mib']:.0f} MiB before, {told['after_mib']:.0f} MiB after,")
    print(f"{told['processes_left']} processes left behind")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "sandbox.json").write_text(json.dumps({**found, **memory}, indent=1))


if __name__ == "__main__":
    main()
