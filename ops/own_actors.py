"""Imports the modules of a user's own actors, for ``--import MODULE`` and FORMRELAY_IMPORTS."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import dramatiq.broker

from ..brokers import get_broker
from ..config import get_settings
from ..core.errors import ConfigError, FormrelayError
from .host import get_host

_OPTION, _VARIABLE = "--import", "FORMRELAY_IMPORTS"


def import_actors(modules: Sequence[str] = ()) -> None:
    """Declare the actors of the host, then import modules, whose actors use formrelay's broker.

    The modules of FORMRELAY_IMPORTS are imported first. Modules are found in the current folder
    too, as with the ``dramatiq`` command.

    Args:
        modules: names of modules, for example ``myapp.actors``.

    Raises:
        ConfigError: the configuration is wrong, a module cannot be imported, or a module sets
            another broker.
    """
    get_host().declare()  # first: it makes the broker that plain actors use
    named = [(module, _VARIABLE) for module in get_settings().imports]
    named += [(module, _OPTION) for module in modules]
    if not named:
        return
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for module, source in named:
        import_module(module, source)
        broker = dramatiq.broker.global_broker
        if broker is not get_broker():
            raise ConfigError(
                f"expected {module} to use formrelay's broker, got {type(broker).__name__} as "
                "Dramatiq's broker: remove its dramatiq.set_broker(…), or set "
                "formrelay.brokers.get_broker()"
            )


def import_module(module: str, source: str = _VARIABLE) -> None:
    """Import a module of actors.

    Args:
        source: the option or variable that names the module.

    Raises:
        ConfigError: it cannot be imported.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise ConfigError(
            f"expected {source} to be the name of a module, like myapp.actors, got {module!r}"
        )
    try:
        importlib.import_module(module)
    except FormrelayError:
        raise  # says itself what is wrong
    except Exception as error:
        raise ConfigError(
            f"expected {source} to name a module that can be imported from {Path.cwd()}, "
            f"got {module!r}: {_cause(error)}"
        ) from error


def _cause(error: Exception) -> str:
    """Describe an error in one line, with the place in the module that raised it."""
    text = " ".join(str(error).split())
    if isinstance(error, ImportError | SyntaxError):  # names the module, or the file and line
        return text
    places = traceback.extract_tb(error.__traceback__)
    place = [each for each in places if not each.filename.startswith("<")][-1]  # no <frozen os>
    return f"{type(error).__name__}: {text} ({place.filename}:{place.lineno})"
