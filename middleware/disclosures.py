"""The disclosure of each actor's exceptions: the option ``log_exceptions``."""

from __future__ import annotations

from typing import Any

import dramatiq

from ..core.disclosure import DEFAULT, Detail, Disclosure
from ..core.errors import ConfigError

#: The option of an actor: ``message``, ``places`` or ``none``; a :class:`Disclosure` from when the
#: actor is declared.
OPTION = "log_exceptions"


def make_disclosure(actor: dramatiq.Actor[Any, Any], setting: str | None) -> Disclosure:
    """Decide which details of an actor's exceptions may be written.

    Args:
        setting: LOG_EXCEPTIONS; None if it is not set.

    Raises:
        ConfigError: the option is none of its values.
    """
    given = actor.options.get(OPTION)
    if isinstance(given, Disclosure):  # declared again
        return given
    is_of_formrelay = getattr(actor, "is_of_formrelay", False) is True
    default = Detail.PLACES if is_of_formrelay else Detail.MESSAGE
    try:
        detail = Detail(given or setting or default)
    except ValueError:
        raise ConfigError(
            f"{actor.actor_name}: expected {OPTION} to be {', '.join(Detail)}, got {given!r}"
        ) from None
    return Disclosure(detail, is_of_formrelay)


def disclosure_of(broker: dramatiq.Broker, actor_name: str) -> Disclosure:
    """Return the disclosure of an actor's exceptions; the default for an unknown actor."""
    actor = broker.actors.get(actor_name)
    found = None if actor is None else actor.options.get(OPTION)
    return found if isinstance(found, Disclosure) else DEFAULT
