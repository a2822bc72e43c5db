"""Declaring formrelay's actors and those in ``actors.py`` and ``tasks.py`` of each app."""

from __future__ import annotations

from django.utils.module_loading import autodiscover_modules

from ..actors import declare_actors


def declare_all() -> None:
    """Declare formrelay's actors and import every installed app's ``actors.py`` and ``tasks.py``.

    Raises:
        ConfigError: the configuration is wrong.
    """
    declare_actors()  # first, so that plain actors use our broker if no other is set
    autodiscover_modules("actors", "tasks")  # tasks: the usual name in projects with Dramatiq
