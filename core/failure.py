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
            code=error.code if isinstance(error, SinkError) else None,
            where=frames(error),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, the form it has in a message's ``options["failure"]``."""
        return asdict(self) | {"reason": self.reason.value, "where": list(self.where)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Failure:
        """The inverse of :meth:`to_json`.

        Raises:
            TypeError, ValueError, KeyError: the data is not such a record.
        """
        return cls(
            **{**data, "reason": Reason(data["reason"]), "where": tuple(data.get("where", ()))}
        )


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
