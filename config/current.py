"""The settings of this process, read when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from .settings import Settings

_lock = Lock()
_current: Settings | None = None
_source: Callable[[], Settings] = Settings.load


def get_settings() -> Settings:
    """Return the settings of this process.

    The first call reads them from the environment, or from the source of :func:`use_source`.

    Raises:
        ConfigError: a variable is invalid, or the broker is missing.
    """
    global _current
    if _current is not None:  # the usual case, once for each job
        return _current
    with _lock:
        if _current is None:
            _current = _source()
        return _current


def use_source(source: Callable[[], Settings]) -> bool:
    """Read the settings from ``source`` when they are first asked for.

    Returns:
        False if the settings have been read or set before, so that ``source`` is ignored.
    """
    global _source
    with _lock:
        if _current is None:
            _source = source
        return _current is None


def use_settings(settings: Settings) -> None:
    """Use ``settings`` in this process. Call it before the first actor is declared."""
    global _current
    with _lock:
        _current = settings
