"""`python -m gateway`: serve the front door."""

from __future__ import annotations

import gc
import sys

from gateway.app import create_app
from gateway.server import Guard
from gateway.settings import GatewaySettings
from shared import telemetry
from shared.app import serve
from shared.settings import ConfigurationError, load_settings


def main() -> None:
    """Exit 2 on a wrong setting, said in one sentence."""
    try:
        settings = load_settings(GatewaySettings)
        app = create_app(settings)
    except ConfigurationError as error:
        print(f"gateway: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    telemetry.configure(settings.service, settings)
    guard = Guard(
        header_seconds=settings.gateway_header_seconds,
        body_seconds=settings.gateway_body_seconds,
        body_rate=settings.gateway_body_rate,
        write_seconds=settings.gateway_write_seconds,
    )
    # What stands now stands for good: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    # Calls leave hardly a cycle behind: look for them rarely, not every 700 objects.
    gc.set_threshold(20_000, 50, 20)
    serve(
        app,
        settings,
        http=guard.protocol(),
        proxy_headers=False,
        timeout_keep_alive=int(settings.gateway_keep_alive_seconds),
        limit_concurrency=settings.gateway_max_connections,
    )


if __name__ == "__main__":
    main()
