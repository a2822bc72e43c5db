"""The settings of this process: read once, at the first question."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from .settings import Settings

_lock = Lock()
_current: Settings | None = None
_source: Callable[[], Settings] = Settings.load


def get_settings() -> Settings:
    """The settings in force, read at the first call: from the environment, unless a program
    that has settings of its own said where from (:func:`use_source`).

    Raises:
        ConfigError: a variable is wrong.
    """
    global _current
    if _current is not None:  # asked for with each job
        return _current
    with _lock:
        if _current is None:
            _current = _source()
        return _current


def use_source(source: Callable[[], Settings]) -> bool:
    """Have the settings read by ``source``, when they are first asked for.

    Returns:
        False: they have been read, or put in force, before; it is too late.
    """
    global _source
    with _lock:
        if _current is None:
            _source = source
        return _current is None


def use_settings(settings: Settings) -> None:
    """Put ``settings`` in force, before the first actor is imported."""
    global _current
    with _lock:
        _current = settings
