"""Which actors there are: ours, and those in the ``actors`` module of each installed app."""

from __future__ import annotations

from django.utils.module_loading import autodiscover_modules

from ..ops.boot import declare_actors


def declare_all() -> None:
    """Declare formrelay's actors and import every installed app's ``actors.py``.

    Raises:
        ConfigError: the configuration is wrong.
    """
    declare_actors()  # first: where no other broker is set, a plain actor lands on ours then
    autodiscover_modules("actors")
