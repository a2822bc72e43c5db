"""The settings of this process: read once, at the first question."""

from __future__ import annotations

from threading import Lock

from .settings import Settings

_lock = Lock()
_current: Settings | None = None


def get_settings() -> Settings:
    """The settings in force, read from the environment at the first call.

    Raises:
        ConfigError: a variable is wrong.
    """
    global _current
    with _lock:
        if _current is None:
            _current = Settings.load()
        return _current


def use_settings(settings: Settings) -> None:
    """Put ``settings`` in force, before the first actor is imported."""
    global _current
    with _lock:
        _current = settings
