"""One wide log line an attempt, and no payload value in it."""

from __future__ import annotations

import logging
import time
from typing import Any

import dramatiq
from dramatiq.middleware import Middleware

from ..core.outcomes import Dead, Defer, Done, Retry
from .delivery import Batch, Delivery

logger = logging.getLogger("formrelay.workers")


class _SaidHere(logging.Filter):
    """Drops the worker's own line about a failed message.

    It holds the exception's text, which may quote an answer, and says less
    than the line of :class:`Attempts`.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Failed to process message")


class Attempts(Middleware):
    """Logs ``attempt`` with everything that is known of it.

    Stands before :class:`.outcomes.Outcomes` in the list, so that its
    ``after_…`` hooks run when the outcome is decided.
    """

    def __init__(self) -> None:
        worker = logging.getLogger("dramatiq.worker.WorkerThread")
        if not any(isinstance(one, _SaidHere) for one in worker.filters):
            worker.addFilter(_SaidHere())

    def after_process_message(
        self,
        broker: dramatiq.Broker,
        message: dramatiq.MessageProxy,
        *,
        result: Any = None,
        exception: BaseException | None = None,
    ) -> None:
        _log(message)

    def after_skip_message(self, broker: dramatiq.Broker, message: dramatiq.MessageProxy) -> None:
        _log(message)


def _log(message: dramatiq.MessageProxy) -> None:
    # No short cut for a level above INFO: failures are logged at WARNING and ERROR.
    if not isinstance(message, Delivery):
        return
    level, fields = logging.INFO, _fields(message)
    match message.outcome:
        case Retry(after=after, failure=failure):
            level = logging.WARNING
            fields |= {"outcome": "retry", "retry_in_s": round(after.total_seconds(), 3)}
            fields |= {"error": failure.error, "error_message": failure.message}
        case Dead(failure=failure):
            level = logging.ERROR
            fields |= {"outcome": "dead", "reason": failure.reason.value}
            fields |= {"error": failure.error, "error_message": failure.message}
        case Defer(after=after, why=why):
            fields |= {"outcome": "defer", "retry_in_s": round(after.total_seconds(), 3)}
            fields |= {"error_message": why}
        case Done() | None:
            fields |= {"outcome": "done"}
    logger.log(level, "attempt", extra=fields)


def _fields(message: Delivery) -> dict[str, Any]:
    now = time.monotonic()
    fields: dict[str, Any] = {
        "actor": message.actor_name,
        "queue": message.queue_name,
        "message_id": message.message_id,
        "attempt": message.attempt,
        "took_ms": round((now - (message.started or now)) * 1000, 1),
    }
    if isinstance(message, Batch):
        fields["parts"] = len(message.parts)
        if message.part_outcomes is not None:
            failed = sum(not isinstance(outcome, Done) for outcome in message.part_outcomes)
            fields["parts_failed"] = failed
    metadata = message.kwargs.get("metadata")
    if isinstance(metadata, dict):
        # Identifiers, not answers: what a person at 3 a.m. searches for.
        for key in ("formId", "submissionId", "traceparent"):
            if isinstance(metadata.get(key), str):
                fields[key] = metadata[key]
    return fields
