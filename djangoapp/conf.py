"""Configuration from Django's settings, then from the environment."""

from __future__ import annotations

from collections.abc import Mapping

from django.conf import settings

from ..config import Settings
from ..core.errors import ConfigError


def given() -> Mapping[str, object]:
    """Return the setting ``FORMRELAY``.

    Raises:
        ConfigError: it is no dictionary.
    """
    found = getattr(settings, "FORMRELAY", {})
    if not isinstance(found, Mapping):
        raise ConfigError(
            "expected the setting FORMRELAY to be a dictionary, like "
            f"{{'REDIS_URL': 'redis://host:6379/0'}}, got {type(found).__name__}"
        )
    return found


def load() -> Settings:
    """Load the settings that :func:`formrelay.config.get_settings` returns in a Django project.

    The keys of ``FORMRELAY`` are the names of the environment variables. Each key overrides its
    variable, unless its value is None or empty.

    Raises:
        ConfigError: values are wrong; the message has one line for each.
    """
    return Settings.load(given=given())


def operator_permission() -> str | None:
    """The permission that makes staff operators of the dashboard, like ``"auth.change_user"``.

    None: only superusers are operators.

    Raises:
        ConfigError: the setting FORMRELAY_DASHBOARD_PERMISSION is not a text.
    """
    found = getattr(settings, "FORMRELAY_DASHBOARD_PERMISSION", None)
    if found is not None and not isinstance(found, str):
        raise ConfigError(
            "expected the setting FORMRELAY_DASHBOARD_PERMISSION to name a permission, like "
            f"'auth.change_user', got {type(found).__name__}"
        )
    return found
