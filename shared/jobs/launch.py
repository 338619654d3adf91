"""The command of the process of a job: first its guard, then all that has to be loaded.

Run by the worker as `python -m shared.jobs.launch DESCRIPTOR PID`: its end of the socket, and the
worker's process id. The guard forks off while this process is small, and stays small.
"""

from __future__ import annotations

import contextlib
import gc
import signal
import sys
from pathlib import Path

from shared.jobs.guard import stand_guard

OOM_SCORE = 500


def main() -> None:
    descriptor, worker = int(sys.argv[1]), int(sys.argv[2])
    stand_guard(worker, descriptor)
    _settle_in()
    # Modules are no garbage: looking for some while they are loaded takes a tenth of the whole start.
    gc.disable()
    from shared.jobs.child import serve

    serve(descriptor)


def _settle_in() -> None:
    """Go first when memory runs out, leave signals to the worker."""
    # Not every container allows it.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    # A handler, not SIG_IGN: programs that the job starts must not inherit deafness.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)


if __name__ == "__main__":
    main()
