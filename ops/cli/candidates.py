"""Names that a shell completes: queues, ids, job types and actors, as the broker has them.

A key press must neither wait, nor print, nor start the embedded broker: names that the broker does
not give within a second are not completed. Names with other characters than letters, digits and
``._/+-`` are left out, because shells split or even run what a program prints as a completion.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...brokers import RelayBroker

#: Seconds in which the broker may answer.
_LIMIT = 1.0
#: Maximum number of names.
_MOST = 50
_SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._/+-]*")


def queue_names(incomplete: str) -> list[str]:
    """Return the queues of the actors and of the broker."""

    def ask(broker: RelayBroker) -> Iterator[str]:
        yield from broker.queues  # before a question that may take too long
        yield from broker.inspector.queues()

    return _known(incomplete, ask, _declared_queues)


def targets(incomplete: str) -> list[str]:
    """Return queues, job types and actors, for ``formrelay send``."""

    def ask(broker: RelayBroker) -> Iterator[str]:
        yield from (*broker.queues, *broker.job_types, *broker.actors)

    return _known(incomplete, ask, _declared_queues)


def actor_names(incomplete: str) -> list[str]:
    """Return the names of actors."""
    return _known(incomplete, lambda broker: broker.actors)


def job_ids(incomplete: str) -> list[str]:
    """Return ids of jobs in any state; on RabbitMQ, of dead letters."""

    def ask(broker: RelayBroker) -> Iterable[str]:
        return (id for _, id in broker.inspector.ids(incomplete, limit=_MOST))

    return _known(incomplete, ask)


def dead_letter_ids(incomplete: str) -> list[str]:
    """Return ids of dead letters."""

    def ask(broker: RelayBroker) -> Iterable[str]:
        return (id for _, id in broker.inspector.dead_ids(incomplete, limit=_MOST))

    return _known(incomplete, ask)


def endpoint_ids(incomplete: str) -> list[str]:
    """Return the ids of failing and disabled endpoints."""

    def ask(broker: RelayBroker) -> Iterable[str]:
        from ...actors.webhooks.resources import make_registry

        return (each.id for each in make_registry(broker.state).all())

    return _known(incomplete, ask)


def connection_ids(incomplete: str) -> list[str]:
    """Return the ids of connections to Google accounts."""

    def ask(_broker: RelayBroker) -> Iterable[str]:
        from ...actors.resources import open_tokens
        from ...config import get_settings

        return (each.id for each in open_tokens(get_settings()).connections())

    return _known(incomplete, ask)


def _declared_queues() -> Iterator[str]:
    """Return the queues of formrelay's actors, from the settings."""
    from ...config import get_settings

    settings = get_settings()
    sections = (settings.events, settings.submissions, settings.partials, settings.webhooks)
    yield from (section.queue for section in (*sections, settings.emails, settings.sheets))


def _open_broker() -> RelayBroker | None:
    """Declare the actors and return the broker; None if that would start the embedded broker."""
    from ...brokers import get_broker
    from ...brokers.embedded import is_running
    from ...config import get_settings
    from ..own_actors import import_actors

    settings = get_settings()
    if settings.broker.kind == "embedded" and not is_running(settings.embedded.data_dir):
        return None
    import_actors()
    return get_broker()


def _known(
    incomplete: str,
    ask: Callable[[RelayBroker], Iterable[str]],
    without_broker: Callable[[], Iterable[str]] = tuple,
) -> list[str]:
    """Return the names that begin with a text, as far as the broker gives them in time.

    Args:
        ask: returns names; may fail, or take too long.
        without_broker: returns names that need no broker.
    """
    found: set[str] = set()

    def take(names: Iterable[str]) -> None:
        for name in islice(names, 10 * _MOST):
            if name.startswith(incomplete) and _SAFE.fullmatch(name):
                found.add(name)

    def collect(broker: RelayBroker) -> None:
        with suppress(Exception):  # no connection, no shared store, …
            take(ask(broker))

    with _silent(), suppress(Exception, SystemExit):  # no configuration, a module with a mistake
        take(without_broker())
        broker = _open_broker()
        if broker is not None:
            # A daemon: the process ends whether the broker has answered or not.
            asking = threading.Thread(
                target=collect, args=(broker,), name="formrelay-candidates", daemon=True
            )
            asking.start()
            asking.join(_LIMIT)
    return sorted(found.copy())[:_MOST]


@contextmanager
def _silent() -> Iterator[None]:
    """Discard what imported modules print: the shell would take it for names."""
    with open(os.devnull, "w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield
