"""Numbers and names the whole client agrees on."""

from __future__ import annotations

URL_VARIABLE = "LATTICEWORK_URL"
KEY_VARIABLE = "LATTICEWORK_KEY"
HOME_VARIABLE = "LATTICEWORK_HOME"
STATE_FOLDER = ".latticework"
LOCAL_FILE = "local.json"

REQUEST_ID_HEADER = "X-Request-Id"
IDEMPOTENCY_HEADER = "Idempotency-Key"
LAST_EVENT_ID_HEADER = "Last-Event-ID"

JSON = "application/json"
EVENT_STREAM = "text/event-stream"

# A model may think for minutes, but a suite that does not accept a connection within seconds is down.
CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 600.0
WRITE_TIMEOUT = 60.0
POOL_TIMEOUT = 30.0

# Whether it is ready is known at once, or it is not.
PROBE_TIMEOUT = 10.0

MAX_RETRIES = 2
FIRST_DELAY = 0.5
MAX_DELAY = 8.0
MAX_RETRY_AFTER = 60.0

# One event may carry a whole answer with its rows.
MAX_EVENT_BYTES = 64 * 2**20
CHUNK_BYTES = 2**20
