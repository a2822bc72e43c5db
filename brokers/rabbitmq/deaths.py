"""Decodes a dead letter of RabbitMQ: the message, and why and when it was dead-lettered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from ...core.clock import iso
from ...core.failure import Failure, Reason
from ...middleware.delivery import RETRIES
from ..attempt_history import failure_in
from ..entries import Entry, State
from ..envelope import decode_or_wrap
from ..fields import died_at
from ..settlement import as_dead_letter
from ..stock_failure import with_stock_error
from . import codec
from .client import FAILURE_HEADER
from .topology import OWN_PREFIX


def decoded(
    content: codec.Content, queue: str, job_types: Mapping[str, str], *, now: float
) -> Entry:
    """Decode a dead letter of a work queue.

    Args:
        now: unix seconds, for the failure of bytes that cannot be decoded.
    """
    id = content.message_id
    headers = content.properties.headers or {} if content.has_headers else {}
    failure = _recorded_failure(headers)
    message = decode_or_wrap(
        content.body,
        queue_name=queue,
        job_types=job_types,
        message_id=id,
        now=now,
        failure=failure,
    )
    if failure is not None:
        message = as_dead_letter(message, failure)
    retries = message.options.get(RETRIES)
    attempt = retries if isinstance(retries, int) else 0
    # RabbitMQ's header first: the message may also carry the failure of an earlier attempt.
    death, recorded = death_in(headers, attempt=attempt), failure_in(message)
    cause = recorded if death is None else with_stock_error(death, message)
    return Entry(
        queue,
        id or message.message_id,
        State.DEAD,
        message,
        failure=cause,
        died=died_at(cause),
        raw=content.body,
    )


def _recorded_failure(headers: Mapping[str, Any]) -> Failure | None:
    """Return the failure in :data:`.client.FAILURE_HEADER`, if there is one."""
    try:
        return Failure.from_json(orjson.loads(headers[FAILURE_HEADER]))
    except (KeyError, TypeError, ValueError):
        return None


#: Our reason and text for each of RabbitMQ's reasons.
_REASONS = {
    "delivery_limit": (Reason.DELIVERY_LIMIT, "requeued more often than the delivery limit allows"),
    "expired": (Reason.EXPIRED, "waited longer than its time-to-live"),
    "maxlen": (Reason.MAXLEN, "the queue was longer than its maximum length"),
    "rejected": (Reason.REJECTED, "rejected by a consumer"),
}


def death_in(headers: Mapping[str, Any], *, attempt: int) -> Failure | None:
    """Return why RabbitMQ dead-lettered a message; None if formrelay did.

    Messages that formrelay dead-letters are published again and have no ``x-death`` header.

    Args:
        attempt: number of attempts before.
    """
    for death in _deaths(headers):
        queue, count, at = death.get("queue"), death.get("count"), death.get("time")
        if isinstance(queue, str) and queue.startswith(OWN_PREFIX):
            # A delay queue: the message was due, and no work queue took it.
            reason, text = Reason.UNDELIVERABLE, "its queue did not exist when it was due"
            queue = None
        elif death.get("reason") in _REASONS:
            reason, text = _REASONS[death["reason"]]
        else:
            continue
        where = f" from {queue!r}" if queue else ""
        times = f" (count: {count})" if queue and isinstance(count, int) else ""
        return Failure(
            reason=reason,
            error="RabbitMQ",
            message=f"dead-lettered by RabbitMQ{where}: {text}{times}",
            at=_iso(at),
            attempt=attempt,
            worker="rabbitmq",
        )
    return None


def _deaths(headers: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the deaths, newest first; deaths in formrelay's own queues come last."""
    found = headers.get("x-death")
    deaths = found if isinstance(found, list) else []
    deaths = [death for death in deaths if isinstance(death, Mapping)]
    yield from sorted(deaths, key=lambda death: str(death.get("queue", "")).startswith(OWN_PREFIX))


def _iso(at: object) -> str:
    if not isinstance(at, datetime):
        return ""
    return iso((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())
