"""The container's health check: is the service in this container ready, the worker alive?"""

import os
import sys
import urllib.error
import urllib.request


def main() -> int:
    """0 when `/readyz` says so (a worker has only its metrics), else 1 with the reason."""
    worker = os.environ.get("LATTICEWORK_JOBS_METRICS_PORT")
    address = f"{worker}/metrics" if worker else f"{os.environ.get('LATTICEWORK_PORT', '8080')}/readyz"
    url = f"http://127.0.0.1:{address}"
    try:
        with urllib.request.urlopen(url, timeout=3):
            return 0
    except urllib.error.HTTPError as error:
        print(error.read(300).decode(errors="replace"))
    except OSError as error:
        print(error)
    return 1


if __name__ == "__main__":
    sys.exit(main())
