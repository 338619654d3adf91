"""Keys of users: how one is made, recognised and kept at hand.

A key is `lw_` and 256 random bits with a checksum behind them. It is stored as a plain SHA-256: slow
password hashes defend secrets a person chose; 256 random bits cannot be guessed from their hash, and
a slow hash on every request would be a gift to whoever wants to exhaust us. The checksum refuses
mistyped keys without asking the database; it protects nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime

import orjson

from shared.principal import PrincipalStamp
from shared.problems import ServiceUnavailable, Unauthorized

PREFIX = "lw_"
_SHOWN = len(PREFIX) + 6
_CHECK_LENGTH = 6

UNLIMITED = -1
_OUTDATED = -1
"""Version of a copy that must be loaded again."""


def new_secret() -> str:
    """A fresh key in clear, to be shown once."""
    body = secrets.token_urlsafe(32)
    return f"{PREFIX}{body}{_checksum(body)}"


def looks_like_key(token: str) -> bool:
    """Whether `token` can be a key at all."""
    if not token.startswith(PREFIX) or not 40 <= len(token) <= 64 or not token.isascii():
        return False
    body = token[len(PREFIX) : -_CHECK_LENGTH]
    return _checksum(body) == token[-_CHECK_LENGTH:]


def _checksum(body: str) -> str:
    return f"{zlib.crc32(body.encode()) & 0xFFFFFF:06x}"


def digest(secret: str) -> str:
    """What is stored of a key: hex SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()


def shown_part(secret: str) -> str:
    """The beginning of a key, by which its owner recognises it in lists."""
    return secret[:_SHOWN]


@dataclass(slots=True)
class Key:
    """A key as the hot path needs it. Limits are whole numbers, `UNLIMITED` where there is none.

    `period` labels the running budget period when asked; `version` rises with every change, and
    Redis knows the newest one, so an outdated copy is noticed by the first call that uses it.
    """

    id: str
    tenant: str
    tenant_class: str
    scopes: frozenset[str]
    version: int
    requests_per_minute: int = UNLIMITED
    tokens_per_minute: int = UNLIMITED
    budget_id: str | None = None
    budget_usd: int = UNLIMITED
    budget_tokens: int = UNLIMITED
    budget_period: str = "total"
    expires_at: float | None = None
    revoked: bool = False
    loaded_at: float = field(default_factory=time.monotonic)
    rate_key: str = ""
    stamps: dict[tuple[str, frozenset[str]], PrincipalStamp] = field(default_factory=dict)
    """What signs this key's principal tokens, by service and scopes."""
    descriptions: dict[tuple[str, str], bytes] = field(default_factory=dict)
    """What the ledger is told of a call, by service and model."""
    _budget_key: str = ""
    _budget_key_until: float = 0.0

    def __post_init__(self) -> None:
        self.rate_key = f"lw:rate:{self.id}"

    def budget_key(self, now: float) -> str:
        """The Redis key that counts this budget's running period; `now` in Unix seconds, UTC."""
        if self.budget_id is None:
            return "lw:budget:none"
        if now >= self._budget_key_until:
            label, self._budget_key_until = period_at(self.budget_period, now)
            self._budget_key = f"lw:budget:{self.budget_id}:{label}"
        return self._budget_key


def period_at(period: str, now: float) -> tuple[str, float]:
    """Label of the budget period `now` lies in (`total`, a day or a month, UTC) and when it ends."""
    if period == "total":
        return "total", float("inf")
    day_end = (now // 86400 + 1) * 86400
    moment = time.gmtime(now)
    if period == "day":
        return time.strftime("%Y-%m-%d", moment), day_end
    # The label is recomputed daily; months have no fixed length.
    return time.strftime("%Y-%m", moment), day_end


def period_start(label: str) -> datetime | None:
    """The first day of a labelled period; None for `total`."""
    if label == "total":
        return None
    return datetime.strptime(label, "%Y-%m-%d" if label.count("-") == 2 else "%Y-%m")


class KeyCache:
    """Keys by the hash of their secret, loaded on a miss, at most one load per key at a time.

    `load` asks the database by hash or by id and returns None for an unknown key. Unknown hashes are
    remembered for `UNKNOWN_SECONDS`; at most `LOADS` questions are asked at once, so a flood of
    invented keys cannot take the database away from others.
    """

    SIZE = 100_000
    UNKNOWN_SECONDS = 1.0
    LOADS = 16

    def __init__(
        self,
        by_digest: Callable[[str], Awaitable[tuple[Key, float | None] | None]],
        by_id: Callable[[str], Awaitable[Key | None]],
    ) -> None:
        self._by_digest = by_digest
        self._by_id = by_id
        self._digests: OrderedDict[bytes, tuple[Key, float | None]] = OrderedDict()
        self._ids: OrderedDict[str, Key] = OrderedDict()
        self._names: dict[str, set[bytes]] = {}
        self._unknown: OrderedDict[bytes, float] = OrderedDict()
        self._loading: dict[str | bytes, asyncio.Future[None]] = {}
        self._slots = asyncio.Semaphore(self.LOADS)

    def find(self, secret: str) -> Key | None:
        """The key if it is at hand and its secret still valid."""
        found = self._digests.get(hashlib.sha256(secret.encode()).digest())
        if found is None:
            return None
        key, valid_until = found
        return key if valid_until is None or time.time() < valid_until else None

    async def get(self, secret: str) -> Key:
        """The key behind `secret`, from the database where necessary.

        Raises:
            Unauthorized: there is no such key, or this secret of it has been rotated away.
            ServiceUnavailable: the key is not at hand and the database does not answer.
        """
        if not looks_like_key(secret):
            raise Unauthorized("The key is not valid.", code="invalid_api_key")
        name = hashlib.sha256(secret.encode()).digest()
        if self._unknown.get(name, 0.0) < time.monotonic():
            await self._once(name, self._load_digest, name)
        key = self.find(secret)
        if key is None:
            raise Unauthorized("The key is not valid.", code="invalid_api_key")
        return key

    async def get_by_id(self, key_id: str) -> Key:
        """The key a principal token names.

        Raises:
            Unauthorized: it does not exist.
            ServiceUnavailable: it is not at hand and the database does not answer.
        """
        known = self._ids.get(key_id)
        if known is None or known.version == _OUTDATED:
            await self._once(key_id, self._load_id, key_id)
        key = self._ids.get(key_id)
        if key is None:
            raise Unauthorized("The key behind this token does not exist.", code="invalid_token")
        return key

    def invalidate(self, key_id: str) -> None:
        """The key was changed: the next call that uses it loads it again."""
        for name in self._names.pop(key_id, ()):
            self._digests.pop(name, None)
        known = self._ids.get(key_id)
        if known is not None:
            known.version = _OUTDATED
        self._unknown.clear()

    def clear(self) -> None:
        """Forget every copy."""
        self._ids.clear()
        self._digests.clear()
        self._names.clear()
        self._unknown.clear()

    @property
    def keys(self) -> list[Key]:
        """The copies at hand."""
        return list(self._ids.values())

    async def _once(
        self, name: str | bytes, load: Callable[[str | bytes], Awaitable[None]], argument: str | bytes
    ) -> None:
        running = self._loading.get(name)
        if running is not None:
            await asyncio.shield(running)
            return
        task = asyncio.ensure_future(self._guarded(load, argument))
        self._loading[name] = task
        task.add_done_callback(lambda _: self._loading.pop(name, None))
        await asyncio.shield(task)

    async def _guarded(self, load: Callable[[str | bytes], Awaitable[None]], name: str | bytes) -> None:
        try:
            async with self._slots:
                await load(name)
        except Unauthorized:
            raise
        except Exception as error:
            raise ServiceUnavailable(
                "Keys cannot be looked up at the moment.", retry_after=2, code="keys_unavailable"
            ) from error

    async def _load_digest(self, name: str | bytes) -> None:
        assert isinstance(name, bytes)
        found = await self._by_digest(name.hex())
        if found is None:
            self._unknown[name] = time.monotonic() + self.UNKNOWN_SECONDS
            if len(self._unknown) > self.SIZE:
                self._unknown.popitem(last=False)
            return
        key, valid_until = found
        self._digests[name] = (self._keep(key), valid_until)
        self._names.setdefault(key.id, set()).add(name)
        if len(self._digests) > self.SIZE:
            oldest, (other, _) = self._digests.popitem(last=False)
            self._names.get(other.id, set()).discard(oldest)

    async def _load_id(self, key_id: str | bytes) -> None:
        assert isinstance(key_id, str)
        key = await self._by_id(key_id)
        if key is None:
            gone = self._ids.pop(key_id, None)
            if gone is not None:
                gone.revoked = True
        else:
            self._keep(key)

    def _keep(self, fresh: Key) -> Key:
        """One object per key, refreshed in place, so that running calls see a revocation."""
        known = self._ids.get(fresh.id)
        if known is None:
            self._ids[fresh.id] = known = fresh
            if len(self._ids) > self.SIZE:
                self._ids.popitem(last=False)
        elif fresh.version >= known.version:
            for name in Key.__slots__:
                setattr(known, name, getattr(fresh, name))
        return known


def dump_scopes(scopes: frozenset[str] | list[str]) -> str:
    """Scopes as they are stored: a sorted JSON list."""
    return orjson.dumps(sorted(scopes)).decode()
