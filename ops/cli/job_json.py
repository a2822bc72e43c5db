"""Jobs and dead letters as JSON, for programs."""

from __future__ import annotations

from typing import Any

from ...brokers import Entry, State
from ...brokers.attempt_history import attempts_of
from ...core.clock import iso
from ...core.failure import Reason
from ...core.printable import shown_id
from ..caused_jobs import CausedJobs, cause_in
from ..masking import masked_message, without_tokens
from ..progress import progress_json


def as_json(entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON, without its payload.

    The reason of a failure is null while the job is retried.
    """
    failure = None if entry.failure is None else entry.failure.to_json()
    if failure is not None and is_retried(entry):
        failure = {**failure, "reason": None}
    return {
        "queue": entry.queue,
        "id": shown_id(entry.id),
        "state": entry.state.value,
        "actor": entry.message.actor_name,
        "sent_at": iso_or_none(entry.message.message_timestamp / 1000),
        "attempts": 0 if entry.failure is None else entry.failure.attempt,
        "due": iso_or_none(entry.due),
        "worker": entry.worker,
        "died_at": iso_or_none(entry.died),
        "failure": failure,
    }


def with_message(
    entry: Entry, *, reveal: bool = False, caused: CausedJobs | None = None
) -> dict[str, Any]:
    """Return an entry as JSON, with its attempts, its cause, its payload and its progress.

    Args:
        reveal: whether to show the values of the payload, except for OAuth tokens.
        caused: the jobs that it caused, if they were searched for.
    """
    cause = cause_in(entry)
    message = entry.message.asdict()
    return {
        **as_json(entry),
        "attempt_history": [
            {**each.to_json(), "at": iso_or_none(each.at)} for each in attempts_of(entry)
        ],
        "caused_by": None if cause is None else shown_id(cause),
        **({} if caused is None else {"caused": caused_json(caused)}),
        "progress": progress_json(entry),
        "message": without_tokens(message) if reveal else masked_message(message),
    }


def caused_json(caused: CausedJobs) -> dict[str, Any]:
    """Return the jobs that a job caused as JSON, with the extent of the search."""
    return {
        "jobs": [as_json(each) for each in caused.entries],
        "looked_at": caused.looked_at,
        "is_complete": caused.is_complete,
    }


def iso_or_none(seconds: float | None) -> str | None:
    """Return a time in ISO 8601; None where another program stored a number out of range."""
    try:
        return None if seconds is None else iso(seconds)
    except (ValueError, OverflowError, OSError):
        return None


def why(entry: Entry) -> str | None:
    """Return the reason and message of the last failure, in one line."""
    failure = entry.failure
    if failure is None:
        return "dead-lettered outside formrelay" if entry.state is State.DEAD else None
    if is_retried(entry):
        return f"attempt {failure.attempt}: {failure.message}"
    return f"{failure.reason.value}: {failure.message}"


def is_retried(entry: Entry) -> bool:
    """Whether a job waits for its next attempt.

    The reason in its record is then the one for which it would be dead-lettered after the last.
    """
    failure = entry.failure
    return (
        entry.state is not State.DEAD
        and failure is not None
        and failure.reason is Reason.ATTEMPTS_EXHAUSTED
    )
