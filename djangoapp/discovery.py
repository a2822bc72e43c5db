"""Declaring formrelay's actors and those in the ``actors`` module of each installed app."""

from __future__ import annotations

from django.utils.module_loading import autodiscover_modules

from ..actors import declare_actors


def declare_all() -> None:
    """Declare formrelay's actors and import every installed app's ``actors.py``.

    Raises:
        ConfigError: the configuration is wrong.
    """
    declare_actors()  # first, so that plain actors use our broker if no other is set
    autodiscover_modules("actors")
