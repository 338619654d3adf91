"""From an Authorization header to a known caller: a user's key, or a service acting for one.

Finding a caller that was seen before awaits nothing. Whether the key is still good is for the
limiter to say, which asks Redis about it in the same round trip as everything else.
"""

from __future__ import annotations

import base64
import time
from collections import OrderedDict
from dataclasses import dataclass

import orjson

from gateway.keys import PREFIX, Key, KeyCache
from shared.principal import ADMIN, PrincipalSigner
from shared.problems import Unauthorized

AUDIENCE = "gateway"
"""Services that call models with their caller's principal address the token to us."""


@dataclass(slots=True)
class Caller:
    """Who calls: the key that pays, and what it may do here."""

    key: Key
    scopes: frozenset[str]
    secret: str
    """The key in clear; empty when a service calls with a principal token."""

    def allows(self, scope: str) -> bool:
        """Whether the caller holds `scope`."""
        return scope in self.scopes or ADMIN in self.scopes


class Authenticator:
    """Recognises keys and principal tokens."""

    TOKENS = 20_000

    def __init__(self, keys: KeyCache, signer: PrincipalSigner) -> None:
        self.keys = keys
        self._signer = signer
        self._tokens: OrderedDict[str, tuple[str, str, frozenset[str], float]] = OrderedDict()

    def find(self, token: str) -> Caller | None:
        """The caller, if its key is at hand; None means `get` has to ask the database."""
        if token.startswith(PREFIX):
            key = self.keys.find(token)
            return None if key is None else Caller(key, key.scopes, token)
        return None

    async def get(self, token: str | None) -> Caller:
        """The caller behind a bearer token.

        Raises:
            Unauthorized: there is no token, or it opens nothing.
            ServiceUnavailable: the key is not at hand and the database does not answer.
        """
        if not token:
            raise Unauthorized("Send the key as 'Authorization: Bearer lw_...'.", code="missing_credentials")
        if token.startswith(PREFIX):
            key = self.keys.find(token) or await self.keys.get(token)
            return Caller(key, key.scopes, token)
        key_id, tenant, scopes = self._verify(token)
        key = await self.keys.get_by_id(key_id)
        if key.tenant != tenant:
            raise Unauthorized("The token's key belongs to another tenant.", code="invalid_token")
        # A key that lost a scope since the token was made has lost it here, too.
        held = scopes if ADMIN in key.scopes else scopes & key.scopes
        return Caller(key, held, "")

    async def renew(self, caller: Caller) -> Caller:
        """The same caller with the newest copy of its key.

        Raises:
            Unauthorized: the secret it came with has been rotated away, or the key is gone.
            ServiceUnavailable: the database does not answer.
        """
        self.keys.invalidate(caller.key.id)
        if caller.secret:
            key = await self.keys.get(caller.secret)
            return Caller(key, key.scopes, caller.secret)
        key = await self.keys.get_by_id(caller.key.id)
        held = caller.scopes if ADMIN in key.scopes else caller.scopes & key.scopes
        return Caller(key, held, "")

    def _verify(self, token: str) -> tuple[str, str, frozenset[str]]:
        known = self._tokens.get(token)
        if known is None:
            principal = self._signer.verify(token, audience=AUDIENCE)
            payload = token.split(".")[1]
            claims = orjson.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            known = (principal.key_id, principal.tenant, principal.scopes, float(claims["exp"]))
            self._tokens[token] = known
            if len(self._tokens) > self.TOKENS:
                self._tokens.popitem(last=False)
        key_id, tenant, scopes, expires = known
        if time.time() >= expires:
            self._tokens.pop(token, None)
            raise Unauthorized("The principal token has expired.", code="token_expired")
        return key_id, tenant, scopes
