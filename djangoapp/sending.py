"""Sends a job when the transaction commits."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import dramatiq
from asgiref.sync import sync_to_async
from django.utils.asyncio import async_unsafe
from dramatiq import Message

from ..brokers import RelayBroker, get_broker
from ..core.clock import SYSTEM_CLOCK, to_millis
from ..core.errors import InvalidJob
from .commit import send_on_commit
from .publishing import send_all

_IN_EVENT_LOOP = (
    "enqueue() cannot be called in an event loop, which it would block: await aenqueue(…), or call "
    "enqueue() in the function of sync_to_async that has the transaction"
)


@async_unsafe(_IN_EVENT_LOOP)
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
    """Send a job when the transaction commits; without a transaction, send it immediately.

    Validates the job immediately, so that an invalid job can still roll the transaction back.
    Sends the jobs of a transaction in the order of the calls, and in one call to the broker where
    no savepoint separates them. A job is lost if the process ends between the commit and the
    sending, and cannot be sent while the broker is unavailable: see docs/django.md.

    Args:
        actor: an actor of :mod:`formrelay.actors`, another Dramatiq actor, or the name of an
            actor ("save_submission"), which needs no import. A plain Dramatiq actor gets the
            payload as its argument, and the metadata, if any, as the keyword ``metadata``.
        on_commit: False sends now, even if the transaction is rolled back later.
        using: alias of the database whose transaction counts; None is the default database.
        delay: minimum time before the job runs.
        options: message options, as for Dramatiq's ``send_with_options``.

    Returns:
        The message that is, or will be, sent.

    Raises:
        SynchronousOnlyOperation: called in an event loop, for example in an async view (Django).
        InvalidJob, MessageTooLarge: the job can never be sent. Raised by this call.
        ConfigError: the configuration is wrong. Raised by this call.
        BrokerUnavailable, BrokerRefused: the broker did not accept the job. Raised at the end of
            the ``atomic`` block, with a message that says that the transaction is committed.
    """
    found = _actor_by_name(actor) if isinstance(actor, str) else actor
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


async def aenqueue(
    actor: dramatiq.Actor[..., Any] | str,
    payload: Any,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Message[Any]:
    """Send a job from an async view: :func:`enqueue` in Django's thread for synchronous code.

    Django has no transactions in async code, so the job is sent at once, unless the view runs in
    the ``atomic`` block of synchronous code (a test). To send when a transaction commits, call
    :func:`enqueue` inside the function of ``sync_to_async`` that has the transaction.

    Args and raises: as :func:`enqueue`.
    """
    sent: Message[Any] = await sync_to_async(enqueue)(actor, payload, metadata, **options)
    return sent


def _actor_by_name(name: str) -> dramatiq.Actor[..., Any]:
    # Here, as below, so that commands of manage.py that send nothing load no actors.
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
    from ..actors.job import JobActor

    if isinstance(actor, JobActor):
        job = {"payload": payload, "metadata": metadata}
        return actor.message_with_options(kwargs=job, **options)
    more = {} if metadata is None else {"metadata": metadata}
    return actor.message_with_options(args=(payload,), kwargs=more, **options)


def _due(delay: timedelta) -> float:
    if not isinstance(delay, timedelta) or delay < timedelta(0):
        raise InvalidJob(f"expected delay to be a non-negative timedelta, got {delay!r}")
    return SYSTEM_CLOCK.time() + delay.total_seconds()
