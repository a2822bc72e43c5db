"""Send a job when the transaction commits, and not when it rolls back."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import dramatiq
from dramatiq import Message

from ..brokers import RelayBroker, get_broker
from ..core.clock import SYSTEM_CLOCK, to_millis
from ..core.errors import InvalidJob
from .commit import send_on_commit
from .delivering import send_all


def enqueue(
    actor: dramatiq.Actor[..., Any] | str,
    payload: Any,
    metadata: Mapping[str, Any] | None = None,
    *,
    on_commit: bool = True,
    using: str | None = None,
    delay: timedelta | None = None,
    **options: Any,
) -> Message[Any]:
    """Send a job when the transaction commits; without a transaction, at once.

    The job is checked now, so that what is wrong with it can still roll the transaction
    back. The jobs of one transaction leave in the order of the calls, and those that share
    their fate (no savepoint between them that can still be rolled back) in one call to the
    broker. What is sent after the commit can be lost with the process in between, and cannot
    be sent while the broker is away: docs/django.md says what to do.

    Args:
        actor: one of :mod:`formrelay.actors`, any other Dramatiq actor, or the name of one
            ("save_submission"), for which nothing has to be imported. An actor that is not of
            formrelay gets the payload as its argument, and the metadata, if there is any, as
            the keyword ``metadata``.
        on_commit: False sends now, whatever becomes of the transaction.
        using: the database whose transaction it is; None is the default one.
        delay: from now on; the job does not run before.
        options: of the message, as Dramatiq's ``send_with_options`` takes them.

    Returns:
        The message, as it is or will be sent.

    Raises:
        InvalidJob, MessageTooLarge: it can never be sent; at the call.
        ConfigError: the configuration is wrong; at the call.
        BrokerUnavailable, BrokerRefused: the broker does not have it; where the transaction is
            committed (on leaving the ``atomic`` block), and then the error says that it is.
    """
    found = _named(actor) if isinstance(actor, str) else actor
    if delay is not None:
        options["eta"] = to_millis(_due(delay))
    message = _message(found, payload, metadata, options)
    if isinstance(found.broker, RelayBroker):
        found.broker.check(message)
    if on_commit:
        send_on_commit(found.broker, message, using)
    else:
        send_all(found.broker, [message])
    return message


def _named(name: str) -> dramatiq.Actor[..., Any]:
    # Not at the top: it reads the configuration.
    from .discovery import declare_all

    declare_all()
    actors = get_broker().actors
    if name not in actors:
        raise InvalidJob(f"expected an actor ({', '.join(sorted(actors))}), got {name!r}")
    return actors[name]


def _message(
    actor: dramatiq.Actor[..., Any],
    payload: Any,
    metadata: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Message[Any]:
    if isinstance(actor.broker, RelayBroker):
        # Not at the top: it reads the configuration, which has been read where there is a broker.
        from ..actors.job import JobActor

        if isinstance(actor, JobActor):
            job = {"payload": payload, "metadata": metadata}
            return actor.message_with_options(kwargs=job, **options)
    more = {} if metadata is None else {"metadata": metadata}
    return actor.message_with_options(args=(payload,), kwargs=more, **options)


def _due(delay: timedelta) -> float:
    if not isinstance(delay, timedelta) or delay < timedelta(0):
        raise InvalidJob(f"expected delay to be a timedelta that is not negative, got {delay!r}")
    return SYSTEM_CLOCK.time() + delay.total_seconds()
