"""Reads the records of past attempts that a message carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dramatiq import Message

from ..core.failure import Failure
from ..core.past_attempts import (
    DEAD,
    DEFER,
    RETRY,
    PastAttempt,
    read_attempts,
    unix_seconds,
    with_failure,
)
from ..middleware.delivery import ATTEMPT_HISTORY, FAILURE
from .entries import Entry, State


def failure_in(message: Message[Any]) -> Failure | None:
    """Return the record of the last failure that a message carries."""
    try:
        return Failure.from_json(message.options[FAILURE])
    except (KeyError, TypeError, ValueError):
        return None


def attempts_in(
    message: Message[Any], failure: Failure | None = None, *, outcome: str = RETRY
) -> list[PastAttempt]:
    """Return the records of the attempts of a message, the oldest first.

    Args:
        failure: the last failure, if it is not in the message.
        outcome: the outcome of the last failure, for the case that it has no record.
    """
    if not message.options and failure is None:
        return []
    found = read_attempts(message.options.get(ATTEMPT_HISTORY))
    return with_failure(found, failure or failure_in(message), outcome)


def records_in(
    message: Message[Any], failure: Failure | None = None, *, outcome: str = RETRY
) -> list[Any]:
    """Return the records of :func:`attempts_in` as a message carries them; arguments as there."""
    records = message.options.get(ATTEMPT_HISTORY) if message.options else None
    if not isinstance(records, list):
        records = []
    failure = failure or failure_in(message)
    if failure is None or _has_record(records, failure):
        return records
    return [each.to_json() for each in attempts_in(message, failure, outcome=outcome)]


def _has_record(records: Sequence[Any], failure: Failure) -> bool:
    """Whether the last attempt that was not deferred is that of a failure.

    Does not read all records, since each retry and each replay asks.
    """
    for each in reversed(records):
        if isinstance(each, dict) and each.get("outcome") != DEFER:
            is_its_number: bool = each.get("attempt") == failure.attempt
            return is_its_number and each.get("at") == unix_seconds(failure.at)
    return False


def attempts_of(entry: Entry) -> list[PastAttempt]:
    """Return the records of the attempts of a message on its queue, the oldest first."""
    outcome = DEAD if entry.state is State.DEAD else RETRY
    return attempts_in(entry.message, entry.failure, outcome=outcome)
