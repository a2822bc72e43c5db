"""Failure records: kept in a message while it is retried, and in its dead letter."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from .clock import iso
from .disclosure import DEFAULT, Disclosure
from .errors import SinkError, type_name
from .process import current_pid

#: Maximum number of causes in a record, and the maximum length of each.
_MAX_CAUSES, _MAX_CAUSE = 5, 300
#: Maximum length of each text, and number of places and causes: RabbitMQ takes headers of up to
#: 128 KiB, and pages show many records.
_MAX_TEXT, _MAX_TEXTS = 4_000, 20


class Reason(StrEnum):
    """Why a message is, or will be, dead-lettered."""

    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    #: ``throws``, ``should_retry`` or ``retry_when`` ended the retries.
    NOT_RETRIED = "not_retried"
    PERMANENT = "permanent"
    INVALID = "invalid"
    UNKNOWN_ACTOR = "unknown_actor"
    UNDECODABLE = "undecodable"
    CRASH_LOOP = "crash_loop"
    EXPIRED = "expired"
    #: A middleware of the host program marked the message as failed.
    MIDDLEWARE = "middleware"
    UNDECIDED = "undecided"
    FOLLOW_UP = "follow_up"
    #: A reason that only a newer version of formrelay knows.
    UNKNOWN = "unknown"
    #: A program other than formrelay dead-lettered the message, such as stock Dramatiq.
    REJECTED = "rejected"
    # Set by RabbitMQ:
    DELIVERY_LIMIT = "delivery_limit"
    MAXLEN = "maxlen"
    UNDELIVERABLE = "undeliverable"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why, when and where a message failed, and after how many attempts.

    Attributes:
        reason: the kind of failure.
        error: type of the exception, ``module.QualName``.
        message: text, as far as :class:`.disclosure.Disclosure` permits it.
        at: time of the failure, ISO 8601 in UTC.
        attempt: number of the failed attempt, from 1; 0 if the message was never tried.
        worker: ``host:pid`` of the process.
        code: HTTP status or ClickHouse error code; None without a response.
        where: innermost stack frames, ``file:line function``, without values.
        causes: the errors that led to this error, the nearest first, each as type and message.
    """

    reason: Reason
    error: str
    message: str
    at: str
    attempt: int
    worker: str
    code: int | None = None
    where: tuple[str, ...] = ()
    causes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        error: BaseException,
        *,
        reason: Reason,
        attempt: int,
        now: float,
        disclosure: Disclosure = DEFAULT,
    ) -> Failure:
        """Make the record of an attempt that raised ``error``.

        Args:
            now: unix time in seconds.
            disclosure: what may be written about errors of the actor.
        """
        return cls(
            reason=reason,
            error=type_name(error),
            message=_cut(disclosure.text(error)),
            at=iso(now),
            attempt=attempt,
            worker=worker_name(),
            code=_code_of(error),
            where=frames(error) if disclosure.has_places else (),
            causes=tuple(_causes(error, disclosure)),
        )

    @classmethod
    def undecodable(cls, error: BaseException, *, now: float) -> Failure:
        """Make the record of bytes that cannot be decoded; ``now`` is unix seconds."""
        return cls.of(error, reason=Reason.UNDECODABLE, attempt=0, now=now)

    def to_json(self) -> dict[str, Any]:
        """Convert to plain JSON, as stored in a message's ``options["failure"]``."""
        found = asdict(self) | {"reason": self.reason.value, "where": list(self.where)}
        if not self.causes:  # most errors have no cause
            del found["causes"]
            return found
        return found | {"causes": list(self.causes)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Failure:
        """Read a record of this or another version; the inverse of :meth:`to_json`.

        Unknown fields are ignored. Missing and malformed fields are empty.

        Raises:
            ValueError: the data has no reason.
        """
        if not isinstance(data, dict) or not isinstance(data.get("reason"), str):
            raise ValueError("expected a failure record with a reason, got something else")
        known: dict[str, Any] = {
            name: _cut(data[name]) if kind is str else data[name]
            for name, kind in _KINDS.items()
            if type(data.get(name)) is kind
        }
        reason = data["reason"]
        is_known = reason in Reason._value2member_map_
        return cls(
            **{"error": "", "message": "", "at": "", "attempt": 0, "worker": "", **known},
            reason=Reason(reason) if is_known else Reason.UNKNOWN,
            where=_texts(data.get("where")),
            causes=_texts(data.get("causes")),
        )


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        return ()
    return tuple(str(each)[:_MAX_CAUSE] for each in value[:_MAX_TEXTS])


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else f"{text[: _MAX_TEXT - 1]}…"


def _causes(error: BaseException, disclosure: Disclosure) -> Iterator[str]:
    """Describe the errors that led to an error."""
    seen = {id(error)}
    for _ in range(_MAX_CAUSES):
        is_hidden = error.__suppress_context__
        cause = error.__cause__ or (None if is_hidden else error.__context__)
        if cause is None or id(cause) in seen:
            return
        seen.add(id(cause))
        yield disclosure.line(cause)[:_MAX_CAUSE]
        error = cause


def _code_of(error: BaseException) -> int | None:
    # A foreign subclass may lack the attribute or hold any type in it.
    code = getattr(error, "code", None) if isinstance(error, SinkError) else None
    return code if isinstance(code, int) else None


#: The fields that are read as they are, with their types.
_KINDS: dict[str, type] = {
    "error": str,
    "message": str,
    "at": str,
    "attempt": int,
    "worker": str,
    "code": int,
}


def worker_name() -> str:
    """``host:pid`` of this process."""
    return _worker_name(current_pid())


@cache
def _worker_name(pid: int) -> str:
    return f"{socket.gethostname()}:{pid}"


def frames(error: BaseException, most: int = 6) -> tuple[str, ...]:
    """The innermost stack frames of an error, ``file:line function``, the innermost last."""
    innermost = traceback.extract_tb(error.__traceback__)[-most:]
    return tuple(f"{short_path(frame.filename)}:{frame.lineno} {frame.name}" for frame in innermost)


def short_path(path: str) -> str:
    """The last two parts of a path, which tell nothing about the machine."""
    return "/".join(path.replace(os.sep, "/").split("/")[-2:])
