"""Converts DATABASE_URL to Django's database settings."""

from typing import Any
from urllib.parse import unquote, urlsplit

import django


def from_url(url: str) -> dict[str, Any]:
    """Convert ``sqlite:////absolute/file`` or ``postgres://user:password@host:5432/name``.

    Raises:
        ValueError: the URL has another scheme. The message does not quote the URL.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return _sqlite(unquote(parts.path.removeprefix("/")))
    if parts.scheme in ("postgres", "postgresql"):
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": unquote(parts.path.removeprefix("/")),
            "USER": unquote(parts.username or ""),
            "PASSWORD": unquote(parts.password or ""),
            "HOST": parts.hostname or "",
            "PORT": str(parts.port or ""),
            "CONN_MAX_AGE": 60,
        }
    raise ValueError("expected DATABASE_URL to start with sqlite:/// or postgres://")


def _sqlite(path: str) -> dict[str, Any]:
    options: dict[str, Any] = {"timeout": 20}
    if django.VERSION >= (5, 1):
        options |= {
            # Otherwise a transaction that reads first fails at its first write, without waiting.
            "transaction_mode": "IMMEDIATE",
            # Readers do not wait for the writer, and a commit needs one write.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        }
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "OPTIONS": options,
        "CONN_MAX_AGE": None,
    }
