"""Credentials at rest: database URLs are kept encrypted (Fernet, AES-128-CBC with HMAC-SHA256)."""

from __future__ import annotations

import base64
import hashlib

from cryptography.fernet import Fernet, InvalidToken

from shared.settings import ConfigurationError


class Vault:
    """Encrypts and decrypts with a key derived from one secret."""

    def __init__(self, secret: str) -> None:
        if len(secret) < 32:
            raise ConfigurationError("LATTICEWORK_CREDENTIALS_SECRET must have at least 32 characters.")
        self._fernet = Fernet(base64.urlsafe_b64encode(hashlib.sha256(secret.encode()).digest()))

    def seal(self, text: str) -> str:
        """The encrypted text."""
        return self._fernet.encrypt(text.encode()).decode()

    def open(self, sealed: str) -> str:
        """The plain text; raises ConfigurationError when the secret is another one."""
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken:
            raise ConfigurationError(
                "A stored database URL cannot be decrypted: LATTICEWORK_CREDENTIALS_SECRET has changed."
            ) from None
