"""Why RabbitMQ itself dead-lettered a message: the header ``x-death`` that it adds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from ...core.clock import iso
from ...core.failure import Failure, Reason

#: RabbitMQ's reasons, and what each means.
_REASONS = {
    "delivery_limit": (Reason.DELIVERY_LIMIT, "put back more often than the delivery limit allows"),
    "expired": (Reason.EXPIRED, "waited longer than its time-to-live"),
    "maxlen": (Reason.MAXLEN, "the queue was longer than its maximum length"),
    "rejected": (Reason.REJECTED, "rejected by a consumer"),
}
#: Our own queues, by which a message passes on its way to a work queue.
_OWN = "formrelay."


def death_in(headers: Mapping[str, Any], *, attempt: int) -> Failure | None:
    """The last death in a dead letter's headers; None where RabbitMQ did not dead-letter it.

    Messages that formrelay dead-letters are published anew and have no such header.

    Args:
        attempt: the attempts that were made before.
    """
    for death in _deaths(headers):
        queue, count, time = death.get("queue"), death.get("count"), death.get("time")
        if isinstance(queue, str) and queue.startswith(_OWN):
            # It was due, and no work queue took it.
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
            at=_iso(time),
            attempt=attempt,
            worker="rabbitmq",
        )
    return None


def _deaths(headers: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The deaths, the last one first; those on other queues than ours before those on ours."""
    found = headers.get("x-death")
    deaths = [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []
    yield from sorted(deaths, key=lambda one: str(one.get("queue", "")).startswith(_OWN))


def _iso(time: object) -> str:
    if not isinstance(time, datetime):
        return ""
    return iso((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
