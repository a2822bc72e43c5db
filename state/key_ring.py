"""Encrypts secrets of the shared store with the keys of ``STATE_KEY`` (Fernet)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..core.errors import ConfigError


class UnknownKey(Exception):
    """None of the keys has encrypted this."""


class KeyRing:
    """Encrypts with the first key, decrypts with any of them.

    Args:
        keys: returns the keys, separated by commas; asked at each use, since they rotate.

    Raises:
        ConfigError: there are no keys, or the package cryptography is not installed.
    """

    def __init__(self, keys: Callable[[], str | None]) -> None:
        self._keys = keys
        self._made: tuple[str, Any] | None = None
        self._ring()

    def encrypt(self, data: bytes) -> bytes:
        """Encrypt with the first key."""
        sealed: bytes = self._ring().encrypt(data)
        return sealed

    def decrypt(self, sealed: bytes) -> bytes:
        """Decrypt.

        Raises:
            UnknownKey: no key fits, or the bytes were changed.
        """
        from cryptography.fernet import InvalidToken

        try:
            data: bytes = self._ring().decrypt(sealed)
        except InvalidToken:
            raise UnknownKey from None
        return data

    def rotate(self, sealed: bytes) -> bytes:
        """Encrypt with the first key what any key has encrypted. Raises as :meth:`decrypt`."""
        return self.encrypt(self.decrypt(sealed))

    def _ring(self) -> Any:
        """The keys, made again when their text changes."""
        text = self._keys()
        if not text:
            raise ConfigError(
                "expected STATE_KEY, with which OAuth tokens are encrypted in Redis, got none: set "
                "STATE_KEY or STATE_KEY_FILE to the output of "
                "`openssl rand -base64 32 | tr +/ -_`, the same for all workers"
            )
        made = self._made
        if made is None or made[0] != text:
            made = self._made = (text, _make(text))
        return made[1]


def _make(text: str) -> Any:
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError:
        raise ConfigError(
            "STATE_KEY needs the package cryptography, which is not installed: "
            "pip install 'formrelay[sheets]' or 'formrelay[email]'"
        ) from None
    return MultiFernet([Fernet(key.strip()) for key in text.split(",")])
