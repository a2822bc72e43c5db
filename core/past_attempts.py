"""Records of the failed and deferred attempts of a message, kept in the message.

They show operators whether the errors of a message changed from attempt to attempt. Their number
and their bytes are bounded: the oldest records are dropped first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import orjson

from .failure import Failure
from .outcomes import Dead, Defer, Retry

#: Maximum number of records of a message, and their maximum bytes as JSON.
MOST_ATTEMPTS, MOST_BYTES = 10, 4096
#: Maximum bytes of the new records of all parts of a batch together.
MOST_BYTES_OF_BATCH = 1024 * 1024
#: Maximum length of the type and of the text of an error.
_MAX_ERROR, _MAX_TEXT = 120, 300

RETRY, DEFER, DEAD = "retry", "defer", "dead"


@dataclass(frozen=True, slots=True)
class PastAttempt:
    """An attempt that was retried, deferred or dead-lettered.

    Attributes:
        attempt: its number, from 1; 0 for a message that was never tried.
        at: its end, Unix seconds; None if unknown.
        outcome: ``retry``, ``defer`` or ``dead``; a newer version may have other outcomes.
        error: type of the exception; empty for a deferral.
        message: text of the failure or of the deferral, without payload values.
        took: seconds from the call of the actor to the end; None if the actor was not called.
        next_in: seconds until the next attempt; None for a dead letter.
        count: number of deferrals in a row, the last of which this is; 1 for other outcomes.
        is_redelivered: whether the message was delivered before, because its worker died or lost
            its connection.
    """

    attempt: int
    at: float | None
    outcome: str
    error: str = ""
    message: str = ""
    took: float | None = None
    next_in: float | None = None
    count: int = 1
    is_redelivered: bool = False

    @classmethod
    def of(
        cls,
        outcome: Retry | Defer | Dead,
        *,
        attempt: int,
        now: float,
        took: float | None = None,
        is_redelivered: bool = False,
    ) -> PastAttempt:
        """Make the record of an attempt.

        Args:
            attempt: number of the attempt, if it was deferred. A failure has its own number.
            now: Unix seconds.
        """
        about: dict[str, Any] = {
            "took": None if took is None else round(took, 3),
            "is_redelivered": is_redelivered,
        }
        if isinstance(outcome, Dead):
            return replace(cls.of_failure(outcome.failure, DEAD), **about)
        about["next_in"] = round(outcome.after / timedelta(seconds=1), 3)
        if isinstance(outcome, Retry):
            return replace(cls.of_failure(outcome.failure, RETRY), **about)
        return cls(attempt, round(now, 3), DEFER, message=_cut(outcome.why, _MAX_TEXT), **about)

    @classmethod
    def of_failure(cls, failure: Failure, outcome: str) -> PastAttempt:
        """Make the record of a failed attempt from its failure, without durations."""
        text = "" if failure.message == failure.error else _cut(failure.message, _MAX_TEXT)
        at = unix_seconds(failure.at)
        return cls(failure.attempt, at, outcome, _cut(failure.error, _MAX_ERROR), text)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON, without empty fields."""
        found: dict[str, Any] = {"attempt": self.attempt, "at": self.at, "outcome": self.outcome}
        optional = {
            "error": self.error,
            "message": self.message,
            "took": self.took,
            "next_in": self.next_in,
            "count": self.count if self.count > 1 else None,
            "redelivered": self.is_redelivered,
        }
        return found | {
            name: value
            for name, value in optional.items()
            if value is not None and value is not False and value != ""
        }

    @classmethod
    def from_json(cls, data: Any) -> PastAttempt | None:
        """Read a record of this or another version; None if ``data`` is not a record."""
        if not isinstance(data, Mapping) or not isinstance(data.get("outcome"), str):
            return None
        return cls(
            int(_number(data.get("attempt")) or 0),
            _number(data.get("at")),
            data["outcome"],
            _text(data.get("error")),
            _text(data.get("message")),
            _number(data.get("took")),
            _number(data.get("next_in")),
            int(_number(data.get("count")) or 1),
            data.get("redelivered") is True,
        )


def read_attempts(data: Any) -> list[PastAttempt]:
    """Read the list that a message carries; leave out items that are not records."""
    if not isinstance(data, list):
        return []
    # Another program may have written a longer list.
    found = map(PastAttempt.from_json, data[-MOST_ATTEMPTS:])
    return [each for each in found if each is not None]


def with_failure(
    attempts: Sequence[PastAttempt], failure: Failure | None, outcome: str
) -> list[PastAttempt]:
    """Add the record of a message's last failure if it is missing.

    It is missing if an older version settled the attempt, if RabbitMQ dead-lettered the message, or
    if the workers of the message died.
    """
    if failure is None:
        return list(attempts)
    last = PastAttempt.of_failure(failure, outcome)
    known = {(each.attempt, each.at) for each in attempts if each.outcome != DEFER}
    if (last.attempt, last.at) in known:
        return list(attempts)
    later = [each for each in attempts if (each.at or 0) > (last.at or float("inf"))]
    return [*attempts[: len(attempts) - len(later)], last, *later]


def appended(
    records: Sequence[Any], ended: PastAttempt, *, most_bytes: int = MOST_BYTES
) -> list[Any]:
    """Append a record to the list that a message carries; the oldest are dropped.

    Works on JSON, since a busy endpoint may defer thousands of messages.

    Args:
        records: the oldest first. Deferrals of the same attempt in a row become one record.
        most_bytes: maximum bytes of the list.
    """
    found = [each for each in records[-MOST_ATTEMPTS:] if isinstance(each, dict)]
    record = ended.to_json()
    if found and ended.outcome == DEFER == found[-1].get("outcome"):
        before = PastAttempt.from_json(found[-1])
        if before is not None and before.attempt == ended.attempt:
            record["count"] = before.count + 1
            del found[-1]
    found.append(record)
    del found[:-MOST_ATTEMPTS]
    while found and len(orjson.dumps(found)) > most_bytes:
        del found[0]
    return found


def unix_seconds(text: str) -> float | None:
    """Convert the time of a failure to Unix seconds; None if it is malformed."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and abs(value) < 1e15 else None


def _cut(text: str, most: int) -> str:
    """Cut a text, and replace lone surrogates, which JSON cannot hold."""
    return text[:most].encode(errors="replace").decode()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
