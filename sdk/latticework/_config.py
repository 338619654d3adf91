"""Values that configure a client: timeouts, retries, and whom to ask as whom."""

from __future__ import annotations

import email.utils
import json
import math
import os
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from latticework._constants import (
    CONNECT_TIMEOUT,
    FIRST_DELAY,
    HOME_VARIABLE,
    KEY_VARIABLE,
    LOCAL_FILE,
    MAX_DELAY,
    MAX_RETRIES,
    MAX_RETRY_AFTER,
    POOL_TIMEOUT,
    READ_TIMEOUT,
    STATE_FOLDER,
    URL_VARIABLE,
    WRITE_TIMEOUT,
)
from latticework._exceptions import ConfigurationError, NoAddress, NoKey


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Four timeouts in seconds; None waits for ever. `read` is the longest silence, not the total."""

    connect: float | None = CONNECT_TIMEOUT
    read: float | None = READ_TIMEOUT
    write: float | None = WRITE_TIMEOUT
    pool: float | None = POOL_TIMEOUT

    def __post_init__(self) -> None:
        for name in ("connect", "read", "write", "pool"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigurationError(
                    f"The {name} timeout is a positive number of seconds, or None for none; got {value!r}."
                )


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to ask again, and after how long.

    Attributes:
        max_retries: further tries after the first one.
        first_delay: seconds before the first retry; doubled for each following one.
        max_delay: cap on our own delay, seconds.
        max_retry_after: longest wait asked for by the server that is obeyed; beyond it the error is raised.
        jitter: share of a delay that is random, 0 to 1, so that clients do not come back in step.
    """

    max_retries: int = MAX_RETRIES
    first_delay: float = FIRST_DELAY
    max_delay: float = MAX_DELAY
    max_retry_after: float = MAX_RETRY_AFTER
    jitter: float = 0.25

    def __post_init__(self) -> None:
        if self.max_retries < 0 or min(self.first_delay, self.max_delay, self.max_retry_after) < 0:
            raise ConfigurationError("A retry policy takes no negative numbers; use max_retries=0 for none.")
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"The jitter is a share between 0 and 1; got {self.jitter!r}.")

    def delay(self, attempt: int, retry_after: float | None = None) -> float | None:
        """Seconds to wait before the retry after try number `attempt` (from 0); None to give up."""
        if attempt >= self.max_retries:
            return None
        if retry_after is not None:
            return retry_after if retry_after <= self.max_retry_after else None
        delay = min(self.first_delay * 2.0**attempt, self.max_delay)
        return delay * (1 - self.jitter * random.random())


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """What the server asks for: milliseconds before seconds before a date; None when it does not ask."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    given = headers.get("retry-after")
    seconds = _number(given)
    if seconds is not None or given is None:
        return seconds
    try:
        moment = email.utils.parsedate_to_datetime(given)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None


@dataclass(frozen=True, slots=True)
class Connection:
    """Whom to ask (`url`, without `/v1` and trailing slash) as whom (`key`), and where that was found."""

    url: str
    key: str = field(repr=False)
    source: str = "arguments"


def resolve(
    url: str | None = None,
    key: str | None = None,
    *,
    environ: Mapping[str, str] = os.environ,
    start: Path | None = None,
) -> Connection:
    """Find address and key: arguments, then environment, then `.latticework/local.json` found upwards.

    The key of the file is only ever sent to the address of the same file, and a file may name a host
    other than this one only together with its own key: a stray file cannot lure a key away.

    Raises:
        NoAddress, NoKey: one of the two is not known.
        ConfigurationError: one of the two cannot be right.
    """
    given_url = url or environ.get(URL_VARIABLE)
    given_key = key or environ.get(KEY_VARIABLE)
    if given_url and given_key:
        return Connection(_origin(given_url), _checked_key(given_key))
    file = local_file(environ, start or Path.cwd())
    local = _read_local(file) if file else None
    if given_url:
        given_url = _origin(given_url)
        if local is None or local.url != given_url:
            raise NoKey(f"No key for {given_url}: pass one, or set {KEY_VARIABLE}.")
        return local
    if local is None:
        raise NoAddress(
            "No Latticework is known here: start one with `lattice up`, "
            f"or set {URL_VARIABLE} and {KEY_VARIABLE}."
        )
    if given_key is None:
        return local
    if not is_loopback(local.url):
        raise NoAddress(f"{local.source} points to {local.url}; set {URL_VARIABLE} to send your key there.")
    return Connection(local.url, _checked_key(given_key), local.source)


def local_file(environ: Mapping[str, str], start: Path) -> Path | None:
    """The state file of a local suite: in `LATTICEWORK_HOME`, or in the nearest folder above `start`."""
    home = environ.get(HOME_VARIABLE)
    if home:
        file = Path(home) / LOCAL_FILE
        return file if file.is_file() else None
    start = start.resolve()
    for folder in (start, *start.parents):
        file = folder / STATE_FOLDER / LOCAL_FILE
        if file.is_file():
            return file
    return None


def _read_local(file: Path) -> Connection:
    try:
        state = json.loads(file.read_text())
        url, key = state["url"], state["key"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ConfigurationError(f"{file} cannot be read ({error}); remove it, or start again.") from None
    return Connection(_origin(str(url)), _checked_key(str(key)), str(file))


def _origin(url: str) -> str:
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{url!r} is not an address; give one such as http://127.0.0.1:8080.")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError("The address has no user, query or fragment; the key is given apart.")
    return url.strip().rstrip("/").removesuffix("/v1").rstrip("/")


def _checked_key(key: str) -> str:
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigurationError("That is not a key: copy it again (it begins with lw_).")
    return key


def is_loopback(url: str) -> bool:
    """Whether the address is this machine."""
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")
