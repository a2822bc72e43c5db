"""The settings of a Django project: ``FORMRELAY`` and, behind it, the environment."""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings

from ..config import Settings
from ..core.errors import ConfigError


def load() -> Settings:
    """What :func:`formrelay.config.get_settings` answers in a Django project.

    ``FORMRELAY`` has the names of the environment as its keys and wins over it, variable by
    variable; None and an empty text are not set, and leave the environment in force.

    Raises:
        ConfigError: one line for each wrong value.
    """
    given = getattr(settings, "FORMRELAY", {})
    if not isinstance(given, Mapping):
        raise ConfigError(
            "expected the setting FORMRELAY to be a dictionary, like "
            f"{{'REDIS_URL': 'redis://host:6379/0'}}, got {type(given).__name__}"
        )
    return Settings.load(given=given)
