"""Imports the modules of a user's own actors, for ``--import MODULE``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

import dramatiq.broker

from ..actors import declare_actors
from ..brokers import get_broker
from ..core.errors import ConfigError


def import_actors(modules: Sequence[str]) -> None:
    """Declare formrelay's actors, then import modules, whose actors use formrelay's broker.

    Modules are found in the current folder too, as with the ``dramatiq`` command.

    Args:
        modules: names of modules, for example ``myapp.actors``.

    Raises:
        ConfigError: the configuration is wrong, a module cannot be imported, or a module sets
            another broker.
    """
    declare_actors()  # first: it makes the broker that plain actors use
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for module in modules:
        _import(module)
        broker = dramatiq.broker.global_broker
        if broker is not get_broker():
            raise ConfigError(
                f"expected {module} to use formrelay's broker, got {type(broker).__name__} as "
                "Dramatiq's broker: remove its dramatiq.set_broker(…), or set "
                "formrelay.brokers.get_broker()"
            )


def _import(module: str) -> None:
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(
            f"expected --import to be the name of a module, like myapp.actors, got {module!r}"
        )
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"expected --import to name a module that can be imported from {Path.cwd()}, "
            f"got {module!r}: {error}"
        ) from error
