"""Logs one line for each attempt, without payload values."""

from __future__ import annotations

import logging
import time
from functools import lru_cache
from typing import Any

import dramatiq
from dramatiq.middleware import CurrentMessage, Middleware

from ..core.clock import iso_of_millis
from ..core.failure import Failure, Reason, worker_name
from ..core.json_lines import as_json
from ..core.log_fields import (
    DURATION,
    ERROR_CAUSES,
    ERROR_MESSAGE,
    ERROR_PLACES,
    ERROR_TYPE,
    JOB_ID,
    LEVEL,
    LOGGER,
    MESSAGE,
    TIME,
    WORKER,
    public_name,
)
from ..core.log_handler import only_handler
from ..core.outcomes import DONE, Dead, Defer, Done, Outcome, Retry
from ..core.process import current_pid
from ..core.trace_context import TRACEPARENT
from .causes import trace_of
from .delivery import Batch, Delivery
from .outcomes import is_deferred
from .sentry_events import join_sentry

#: Its lines are those of attempts alone.
logger = logging.getLogger("formrelay.workers.attempts")

#: The logger of Dramatiq's worker threads.
WORKER_LOGGER = "dramatiq.worker.WorkerThread"

#: Identifiers in the metadata of a job to search the logs for; they are not personal data.
FORM_ID, SUBMISSION_ID = FORM_IDS = ("formId", "submissionId")
#: Maximum number of ids of batch parts in a line.
_MAX_IDS = 20


class _DropWorkerLines(logging.Filter):
    """Drops lines of Dramatiq's worker that are wrong, or that :class:`Attempts` writes better.

    Its line about a failure contains the exception's text, which may quote a payload value. Its
    line about a deferral is a warning, although nothing is wrong. Its warning that a result is
    discarded is wrong for a job with an idempotency key, whose result is kept.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        about = record.args[0] if isinstance(record.args, tuple) and record.args else None
        text = str(record.msg)
        if not isinstance(about, Delivery):
            return "' returned a value that is not None" not in text or not _result_is_kept()
        is_deferral = text.endswith("was skipped.") and is_deferred(about)
        return not (is_deferral or text.startswith("Failed to process message"))


def _result_is_kept() -> bool:
    """Whether the job that runs in this thread has an idempotency key."""
    message = CurrentMessage.get_current_message()
    return isinstance(message, Delivery) and message.claim is not None


_drop_worker_lines = _DropWorkerLines()


def _has_no_arguments(record: logging.LogRecord) -> bool:
    """Drops an actor's DEBUG line with its arguments, which are personal data."""
    return not str(record.msg).startswith("Received args=")


class Attempts(Middleware):
    """Logs the line ``attempt`` with all fields of the attempt.

    Must stand before :class:`.outcomes.Outcomes` in the list, so that its ``after_…`` hooks run
    after the outcome is decided.
    """

    def __init__(self) -> None:
        logging.getLogger(WORKER_LOGGER).addFilter(_drop_worker_lines)

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        join_sentry(broker, logger.name)

    def after_declare_actor(self, broker: dramatiq.Broker, actor: dramatiq.Actor[Any, Any]) -> None:
        actor.logger.addFilter(_has_no_arguments)

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
        if isinstance(message, Delivery) and isinstance(worst_outcome(message), Done):
            # Done without running: a middleware of the host program skipped the message.
            message.fields = {**(message.fields or {}), "is_skipped": True}
        _log(message)


def _log(message: dramatiq.MessageProxy) -> None:
    if not isinstance(message, Delivery):
        return
    # Saves a call for most messages.
    outcome = message.outcome if type(message) is Delivery else worst_outcome(message)
    level = logging.INFO if outcome is DONE else _level(outcome)
    if not logger.isEnabledFor(level):
        return
    handler = only_handler(logger)
    if handler is None:
        # Faster than Logger.log(), which looks for the caller and checks the names of the fields.
        record = logging.LogRecord(logger.name, level, "", 0, "attempt", None, None)
        record.__dict__.update(_fields(message) | _verdict(outcome))
        logger.handle(record)
    elif outcome is DONE and handler.encode is as_json and (line := _done_line(message)):
        handler.writer.write(line)
    else:
        fields = _fields(message) | _verdict(outcome)
        handler.write_fields(level, logger.name, "attempt", fields)


def _done_line(message: Delivery) -> bytes | None:
    """Make the line of a single message that is done; its start is kept for a millisecond.

    Returns:
        None for a batch or a message with further fields.
    """
    if message.fields is not None or isinstance(message, Batch):
        return None
    now = time.monotonic()
    fields: dict[str, Any] = {
        JOB_ID: message.message_id,
        "attempt": message.attempt,
        DURATION: _milliseconds(now - (message.started or now)),
    }
    may_have_trace = bool(message.options or message.args)
    metadata = message.kwargs.get("metadata")
    if isinstance(metadata, dict):
        # No loop over FORM_IDS: this code runs once for each job.
        if isinstance(form := metadata.get(FORM_ID), str):
            fields[FORM_ID] = form
        if isinstance(submission := metadata.get(SUBMISSION_ID), str):
            fields[SUBMISSION_ID] = submission
        may_have_trace = may_have_trace or TRACEPARENT in metadata
    trace = message.trace
    if trace is None and may_have_trace:
        trace = trace_of(message.message)
    if trace is not None:
        fields[TRACEPARENT] = trace.traceparent
    fields["outcome"] = "done"
    millis = time.time_ns() // 1_000_000
    start = _line_start(current_pid(), message.actor_name, message.queue_name, millis)
    return start + as_json(fields)[1:]


@lru_cache(maxsize=64)  # many lines fall into the same millisecond
def _line_start(pid: int, actor: str, queue: str, millis: int) -> bytes:
    """Return the start of a line, up to the comma before the job id."""
    return f'{{"{TIME}":"{iso_of_millis(millis)}",{_common_fields(pid, actor, queue)},'.encode()


@lru_cache(maxsize=1024)
def _common_fields(_pid: int, actor: str, queue: str) -> str:
    """The fields that all lines of an actor share in a process, without braces.

    Args:
        _pid: a forked process has another name as a worker.
    """
    fields = {LEVEL: logging.getLevelName(logging.INFO), WORKER: worker_name(), LOGGER: logger.name}
    fields |= {MESSAGE: "attempt", "actor": actor, "queue": queue}
    return as_json(fields).removeprefix(b"{").removesuffix(b"}\n").decode()


def worst_outcome(message: Delivery) -> Outcome | None:
    """The outcome of an attempt to tell: for a batch with several outcomes, the worst."""
    if not isinstance(message, Batch) or not message.part_outcomes:
        return message.outcome
    order = (Dead, Retry, Defer, Done)
    return min(message.part_outcomes, key=lambda outcome: order.index(type(outcome)))


def _level(outcome: Outcome | None) -> int:
    if isinstance(outcome, Dead | None):
        return logging.ERROR
    return logging.WARNING if isinstance(outcome, Retry) else logging.INFO


def _verdict(outcome: Outcome | None) -> dict[str, Any]:
    match outcome:
        case Done():
            return {"outcome": "done"}
        case Retry(after=after, failure=failure):
            verdict: dict[str, Any] = {"outcome": "retry"}
            verdict |= {"retryInSeconds": round(after.total_seconds(), 3)}
            if failure.reason is Reason.UNDECIDED:
                verdict |= {"reason": failure.reason.value}
            return verdict | _error(failure)
        case Dead(failure=failure):
            return {"outcome": "dead", "reason": failure.reason.value} | _error(failure)
        case Defer(after=after, why=why):
            verdict = {"outcome": "defer", "retryInSeconds": round(after.total_seconds(), 3)}
            return verdict | {ERROR_MESSAGE: why}
        case None:  # the consumer decides it when it settles the delivery: a failed attempt
            return {"outcome": "undecided"}


def _error(failure: Failure) -> dict[str, Any]:
    fields: dict[str, Any] = {ERROR_TYPE: failure.error, ERROR_MESSAGE: failure.message}
    if failure.where:
        fields[ERROR_PLACES] = failure.where
    if failure.causes:
        fields[ERROR_CAUSES] = failure.causes
    return fields


def _fields(message: Delivery) -> dict[str, Any]:
    now = time.monotonic()
    fields: dict[str, Any] = {
        "actor": message.actor_name,
        "queue": message.queue_name,
        JOB_ID: message.message_id,
        "attempt": message.attempt,
        DURATION: _milliseconds(now - (message.started or now)),
    }
    if isinstance(message, Batch):
        fields |= _part_fields(message)
    first = message.parts[0] if isinstance(message, Batch) and len(message.parts) == 1 else message
    metadata = first.kwargs.get("metadata")
    if isinstance(metadata, dict):
        for key in FORM_IDS:
            if isinstance(metadata.get(key), str):
                fields[key] = metadata[key]
    trace = message.trace or trace_of(first.message)
    if trace is not None:
        fields[TRACEPARENT] = trace.traceparent
    if message.fields:
        fields.update({public_name(name): value for name, value in message.fields.items()})
    return fields


def _milliseconds(seconds: float) -> float:
    """To one decimal place; faster than :func:`round`."""
    return int(seconds * 10_000 + 0.5) / 10


def _part_fields(batch: Batch) -> dict[str, Any]:
    """The number of parts and of failed parts, and the ids of the first of each."""
    fields: dict[str, Any] = {"parts": len(batch.parts)}
    if batch.part_outcomes is not None:
        failed = [
            part.message_id
            for part, outcome in zip(batch.parts, batch.part_outcomes, strict=True)
            if not isinstance(outcome, Done)
        ]
        fields |= {"partsFailed": len(failed), "failedIds": failed[:_MAX_IDS]}
    return fields | {"partIds": [part.message_id for part in batch.parts[:_MAX_IDS]]}
