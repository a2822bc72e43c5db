"""Configuration from the Django setting ``FORMRELAY``, then from the environment."""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings

from ..config import Settings
from ..core.errors import ConfigError


def load() -> Settings:
    """Load the settings that :func:`formrelay.config.get_settings` returns in a Django project.

    The keys of ``FORMRELAY`` are the names of the environment variables. Each key overrides its
    variable, unless its value is None or empty.

    Raises:
        ConfigError: values are wrong; the message has one line for each.
    """
    given = getattr(settings, "FORMRELAY", {})
    if not isinstance(given, Mapping):
        raise ConfigError(
            "expected the setting FORMRELAY to be a dictionary, like "
            f"{{'REDIS_URL': 'redis://host:6379/0'}}, got {type(given).__name__}"
        )
    return Settings.load(given=given)
