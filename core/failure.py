"""The record of a failure that travels with a message and stays in its dead letter."""

from __future__ import annotations

import os
import socket
import traceback
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from .clock import iso
from .errors import SinkError, describe


class Reason(StrEnum):
    """Why a message is (or would be) dead."""

    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    PERMANENT = "permanent"
    INVALID = "invalid"
    UNKNOWN_ACTOR = "unknown_actor"
    UNDECODABLE = "undecodable"
    CRASH_LOOP = "crash_loop"
    EXPIRED = "expired"
    UNDECIDED = "undecided"
    FOLLOW_UP = "follow_up"
    #: Written by a newer version of formrelay, which knows more reasons.
    UNKNOWN = "unknown"
    # RabbitMQ's own:
    DELIVERY_LIMIT = "delivery_limit"
    MAXLEN = "maxlen"
    REJECTED = "rejected"
    UNDELIVERABLE = "undeliverable"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why, when, where, after how many attempts.

    Attributes:
        reason: the class of cause.
        error: the exception's type, ``module.QualName``.
        message: what happened, free of payload values (see :func:`.errors.describe`).
        at: when, ISO 8601 in UTC.
        attempt: the attempt that failed, from 1; 0 where none was made.
        worker: ``host:pid`` of the process.
        code: what the outside system answered, if it did.
        where: innermost frames, ``file:line function``, without any value.
    """

    reason: Reason
    error: str
    message: str
    at: str
    attempt: int
    worker: str
    code: int | None = None
    where: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: BaseException, *, reason: Reason, attempt: int, now: float) -> Failure:
        """The record of ``error``, which ended ``attempt`` at unix time ``now``."""
        kind = type(error)
        return cls(
            reason=reason,
            error=f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
            message=describe(error),
            at=iso(now),
            attempt=attempt,
            worker=worker_name(),
            code=_code_of(error),
            where=frames(error),
        )

    @classmethod
    def undecodable(cls, error: BaseException, *, now: float) -> Failure:
        """The record of bytes that are no message; ``now`` is unix time."""
        return cls.of(error, reason=Reason.UNDECODABLE, attempt=0, now=now)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, the form it has in a message's ``options["failure"]``."""
        return asdict(self) | {"reason": self.reason.value, "where": list(self.where)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Failure:
        """The inverse of :meth:`to_json`, for records of other versions too.

        Unknown fields are ignored, missing and malformed fields are empty.

        Raises:
            TypeError, ValueError: the data is not such a record: it has no reason.
        """
        if not isinstance(data, dict) or not isinstance(data.get("reason"), str):
            raise ValueError("expected the record of a failure, got something else")
        known = {name: data[name] for name, kind in _KINDS.items() if type(data.get(name)) is kind}
        reason = data["reason"]
        is_known = reason in Reason._value2member_map_
        where = data.get("where")
        return cls(
            **{"error": "", "message": "", "at": "", "attempt": 0, "worker": "", **known},
            reason=Reason(reason) if is_known else Reason.UNKNOWN,
            where=tuple(map(str, where)) if isinstance(where, list | tuple) else (),
        )


def _code_of(error: BaseException) -> int | None:
    # A subclass of somebody else's may lack the attribute, or have anything in it.
    code = getattr(error, "code", None) if isinstance(error, SinkError) else None
    return code if isinstance(code, int) else None


#: The fields of a record that are stored as they are.
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
    return f"{_hostname()}:{os.getpid()}"


@cache
def _hostname() -> str:
    return socket.gethostname()


def frames(error: BaseException, most: int = 6) -> tuple[str, ...]:
    """The innermost frames of an error as ``file:line function``, the innermost last."""
    innermost = traceback.extract_tb(error.__traceback__)[-most:]
    return tuple(f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in innermost)


def _short(path: str) -> str:
    """The last two parts of a path: enough to find the file, nothing about the machine."""
    return "/".join(path.replace(os.sep, "/").split("/")[-2:])
