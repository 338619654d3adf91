"""The worker command: `python -m shared.jobs.worker --pool training [--pool more] [--concurrency N]`.

SIGTERM or SIGINT drains: running jobs save a checkpoint and are handed back; the process is gone
within 30 s. A second signal changes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence

import uvloop
from prometheus_client import CollectorRegistry, start_http_server

from shared import telemetry
from shared.jobs.handlers import Handlers, load_handlers
from shared.jobs.settings import JobSettings
from shared.jobs.supervisor import Supervisor
from shared.settings import ConfigurationError, load_settings

EXIT_SECONDS = 29.0
"""From the signal to the end of the process, whatever happens."""


def pools_of(handlers: Handlers) -> dict[str, list[str]]:
    """The kinds of every pool."""
    pools: dict[str, list[str]] = {}
    for kind, spec in sorted(handlers.items()):
        pools.setdefault(spec.pool, []).append(kind)
    return pools


async def work(settings: JobSettings, handlers: Handlers, pools: Sequence[str], concurrency: int) -> None:
    """Run one worker until it is told to stop."""
    registry = CollectorRegistry()
    supervisor = Supervisor(settings, handlers, pools=pools, concurrency=concurrency, registry=registry)

    def stop() -> None:
        supervisor.stop()
        # A driver's waiting thread may hold the exit up. Jobs end with us, leases by themselves.
        last = threading.Timer(EXIT_SECONDS, os._exit, (1,))
        last.daemon = True
        last.start()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    if settings.jobs_metrics_port:
        start_http_server(settings.jobs_metrics_port, addr=settings.host, registry=registry)
    await supervisor.run()


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry of the command; exit 2 on a wrong setting or an unknown pool."""
    parser = argparse.ArgumentParser(prog="python -m shared.jobs.worker", description="Run queued jobs.")
    parser.add_argument("--pool", action="append", default=[], help="whose jobs to run; may be repeated")
    parser.add_argument("--concurrency", type=int, default=1, help="jobs at a time (default 1)")
    parser.add_argument("--list", action="store_true", help="show the pools and their kinds")
    options = parser.parse_args(arguments)
    if options.concurrency < 1:
        parser.error("--concurrency must be at least 1")
    try:
        settings = load_settings(JobSettings)
        handlers = load_handlers(settings.jobs_modules)
        pools = pools_of(handlers)
        if options.list:
            for pool, kinds in pools.items():
                print(f"{pool}: {', '.join(kinds)}")
            return
        if not options.pool:
            parser.error(f"name at least one --pool; there are: {', '.join(pools)}")
        for pool in options.pool:
            if pool not in pools:
                raise ConfigurationError(f"There is no pool '{pool}'; there are: {', '.join(pools)}.")
    except ConfigurationError as error:
        print(f"worker: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    telemetry.configure("worker", settings)
    uvloop.run(work(settings, handlers, options.pool, options.concurrency))


if __name__ == "__main__":
    main()
