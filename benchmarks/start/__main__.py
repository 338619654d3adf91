"""Time from starting the suite to ready, first and later starts on one home; a table and JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shared.app import free_port

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[2]
STARTS = 4
TARGET_SECONDS = 15.0


def start_once(home: Path) -> float:
    """Seconds until `local.json` says ready; stops the suite again."""
    variables = {**os.environ, "LATTICEWORK_HOME": str(home), "LATTICEWORK_PORT": str(free_port())}
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.local"], cwd=ROOT, env=variables, stdout=subprocess.DEVNULL
    )
    while not (home / "local.json").exists():
        if process.poll() is not None:
            sys.exit("the suite did not start")
        time.sleep(0.02)
    seconds = time.monotonic() - begun
    process.send_signal(signal.SIGINT)
    process.wait(60)
    return seconds


def main() -> None:
    """Start, stop, and say what it took."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = [start_once(Path(folder) / "home") for _ in range(STARTS)]
    print("| start | seconds to ready |\n| --- | --- |")
    for index, value in enumerate(seconds, 1):
        print(f"| {index} | {value:.1f} |")
    later = max(seconds[1:])
    print(f"slowest later start {later:.1f} s, target under {TARGET_SECONDS:g} s: {later < TARGET_SECONDS}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "start.json").write_text(json.dumps({"seconds": seconds, "load": os.getloadavg()}))


if __name__ == "__main__":
    main()
