"""Encrypts with a list of Fernet keys; each encrypted text names its key.

Fernet alone cannot tell a key that is missing from a text that was changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from .errors import ConfigError, FormrelayError

#: Version of the format.
_VERSION = "1"
_ID_LENGTH = 8


class KeyMissing(FormrelayError):
    """The key that encrypted a text is not in the list.

    Attributes:
        key_id: the id of the missing key.
    """

    def __init__(self, key_id: str) -> None:
        super().__init__(f"no key has the id {key_id}")
        self.key_id = key_id


class NotDecryptable(FormrelayError):
    """An encrypted text is damaged, or was changed."""


class _Keys(NamedTuple):
    """The keys that a text lists, made once.

    Attributes:
        first: id of the key that encrypts.
        by_id: the Fernet objects.
        digest_key: for :meth:`KeyList.digest`.
    """

    first: str
    by_id: Mapping[str, Any]
    digest_key: bytes


class KeyList:
    """Encrypts with the first key, decrypts with the key that a text names. Thread-safe.

    Args:
        keys: returns the keys, separated by commas, or None; asked at each use, since they rotate.
        needs: the variable of the keys, for errors.
    """

    def __init__(self, keys: Callable[[], str | None], *, needs: str) -> None:
        self._keys = keys
        self._needs = needs
        self._made: tuple[str, _Keys] | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys, the first encrypts; empty without keys.

        Raises:
            ConfigError: the package cryptography is not installed.
        """
        keys = self._current()
        return () if keys is None else tuple(keys.by_id)

    def encrypt(self, data: bytes) -> str:
        """Encrypt with the first key.

        Raises:
            ConfigError: there is no key, or the package cryptography is not installed.
        """
        keys = self._current()
        if keys is None:
            raise self._no_keys()
        token: bytes = keys.by_id[keys.first].encrypt(data)
        return f"{_VERSION}.{keys.first}.{token.decode()}"

    def decrypt(self, text: str) -> bytes:
        """Decrypt.

        Raises:
            KeyMissing: none of the keys has encrypted this.
            NotDecryptable: the text is damaged or was changed.
            ConfigError: the package cryptography is not installed.
        """
        id, token = _parts(text)
        keys = self._current()
        fernet = None if keys is None else keys.by_id.get(id)
        if fernet is None:
            raise KeyMissing(id)
        from cryptography.fernet import InvalidToken

        try:
            data: bytes = fernet.decrypt(token.encode())
        except (InvalidToken, UnicodeEncodeError):
            raise NotDecryptable("expected an encrypted text, got a changed text") from None
        return data

    def digest(self, data: bytes) -> str:
        """Return a digest of 16 digits that only somebody with the first key can compute."""
        keys = self._current()
        if keys is None:
            raise self._no_keys()
        return hashlib.blake2b(data, key=keys.digest_key, digest_size=8).hexdigest()

    def _no_keys(self) -> ConfigError:
        return ConfigError(f"expected {self._needs} to have keys, got none")

    def _current(self) -> _Keys | None:
        """The keys, made again when their text changes."""
        text = self._keys()
        if not text:
            return None
        made = self._made
        if made is None or made[0] != text:
            made = self._made = (text, _make(text, self._needs))
        return made[1]


def key_id(text: str) -> str:
    """Return the id of the key that encrypted a text.

    Raises:
        NotDecryptable: the text has none.
    """
    return _parts(text)[0]


def _parts(text: str) -> tuple[str, str]:
    """Split an encrypted text into the id of its key and the Fernet token."""
    version, _, rest = text.partition(".")
    id, _, token = rest.partition(".")
    is_id = len(id) == _ID_LENGTH and set(id) <= set("0123456789abcdef")
    if version != _VERSION or not is_id or not token:
        raise NotDecryptable("expected an encrypted text, got another text")
    return id, token


def _make(text: str, needs: str) -> _Keys:
    try:
        from cryptography.fernet import Fernet
    except ImportError:
        raise ConfigError(
            f"{needs} needs the package cryptography, which is not installed: "
            "pip install 'formrelay[encryption]'"
        ) from None
    keys = [key.strip() for key in text.split(",")]
    by_id = {_digest(key, b"id").hex()[:_ID_LENGTH]: Fernet(key) for key in keys}
    return _Keys(next(iter(by_id)), by_id, _digest(keys[0], b"digest"))


def _digest(key: str, purpose: bytes) -> bytes:
    """Derive bytes from a key for one purpose; they tell nothing of the key."""
    return hashlib.blake2b(key.encode(), person=b"formrelay " + purpose[:6]).digest()
