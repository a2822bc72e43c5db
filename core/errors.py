"""The tree of errors.

::

    FormrelayError
    ├── ConfigError             a variable or an option of an actor is wrong
    │   ├── NotConfigured       no broker is configured
    │   └── InvalidPolicy       a retry policy is wrong
    ├── InvalidJob              a job does not fit its schema; nothing was enqueued
    ├── BrokerError             a broker failed (subclasses: broker_errors.py)
    ├── NotNow                  the job was not tried; it is deferred without using an attempt
    ├── SinkError               an outside system did not accept the job
    │   ├── SinkTransient       it may accept the job later
    │   │   ├── SinkUnavailable no connection could be made; nothing was sent
    │   │   ├── SinkBusy        it is overloaded and accepted nothing
    │   │   └── SinkUnready     an operator has to act: a table, permission or password is missing
    │   └── SinkPermanent       it will never accept this job
    └── PartsFailed             some parts of a batch failed, each with its own error

Messages of these errors never contain payload values or secrets, because they are written to
logs and dead letters. Of a foreign exception only its type is written (:func:`describe`);
:mod:`.disclosure` decides which details of an actor's exception are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from enum import StrEnum
from typing import Any


class FormrelayError(Exception):
    """Something in formrelay failed.

    Attributes:
        accepted: set by ``enqueue_many``: the number of messages, counted from the first, that
            the broker certainly has. It may have more.
    """

    accepted: int = 0

    def __init__(self, message: str | None = None) -> None:
        # The first line of the docstring is the default message.
        # Not super(): in a subclass of a Dramatiq error too, it is Dramatiq's __init__, which
        # does not set args.
        Exception.__init__(self, message or (type(self).__doc__ or "").partition("\n")[0])

    def reword(self, message: str) -> None:
        """Replace the message; type and attributes stay."""
        self.args = (message,)
        if hasattr(self, "message"):  # Dramatiq's errors have the message here too
            self.message = message


class ConfigError(FormrelayError):
    """The configuration is wrong.

    Attributes:
        settings: the settings as far as they are valid, to name missing variables too; or None.
    """

    settings: Any = None


class NotConfigured(ConfigError):
    """No broker is configured."""


class InvalidPolicy(ConfigError, ValueError):
    """A retry policy is wrong."""


class InvalidJob(FormrelayError):
    """The job does not fit its schema."""


class BrokerError(FormrelayError):
    """The broker did not execute an operation."""


class DeferReason(StrEnum):
    """Why a job is deferred: the closed set of reasons, by which deferrals are counted."""

    #: An actor raised ``NotNow`` without a reason.
    ACTOR = "actor"
    #: A limit or quota of calls or e-mails is reached.
    RATE_LIMIT = "rate_limit"
    CIRCUIT_OPEN = "circuit_open"
    #: The maximum number of deliveries, batches or connections is in use.
    BUSY = "busy"
    #: Another worker runs the job, or a job with the same key.
    RUNNING_ELSEWHERE = "running_elsewhere"
    SINK_UNAVAILABLE = "sink_unavailable"
    SINK_BUSY = "sink_busy"
    #: An operator has to act: a table, a permission or a connection is missing.
    SINK_UNREADY = "sink_unready"
    #: The worker lacks the key of PAYLOAD_KEYS that encrypted the job.
    KEY_MISSING = "key_missing"
    #: The shared store or the broker failed.
    STORE_UNAVAILABLE = "store_unavailable"
    #: The worker is stopping.
    STOPPING = "stopping"


class NotNow(FormrelayError):
    """The job cannot be tried now.

    Attributes:
        after: time until the next try.
        reason: why, for metrics.
    """

    reason = DeferReason.ACTOR

    def __init__(
        self,
        message: str | None = None,
        *,
        after: timedelta,
        reason: DeferReason | None = None,
    ) -> None:
        super().__init__(message)
        self.after = _duration("after", after)
        if reason is not None:
            self.reason = DeferReason(reason)


class SinkError(FormrelayError):
    """An outside system did not accept the job.

    Attributes:
        code: the HTTP status or ClickHouse error code; None without a response.
        retry_after: the wait that the system asked for (Retry-After); None if it did not.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        code: int | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = None if retry_after is None else _duration("retry_after", retry_after)


class SinkTransient(SinkError):
    """An outside system failed, but may work later."""


class SinkUnavailable(SinkTransient):
    """An outside system could not be reached; nothing was sent."""


class SinkBusy(SinkTransient):
    """An outside system is overloaded."""


class SinkUnready(SinkTransient):
    """An outside system is not set up: an operator has to act."""


class SinkPermanent(SinkError):
    """An outside system will never accept this job."""


class PartsFailed(FormrelayError):
    """Some parts of a batch failed.

    Attributes:
        failures: the error of each failed part, by index in the batch. All other parts
            succeeded.
    """

    def __init__(self, failures: Mapping[int, BaseException]) -> None:
        super().__init__(f"{len(failures)} parts of the batch failed")
        for index, error in failures.items():
            if not isinstance(index, int) or not isinstance(error, BaseException):
                raise TypeError("expected failures to map indexes (int) to exceptions")
        self.failures = dict(failures)


def _duration(name: str, value: timedelta) -> timedelta:
    # Checked here, because a wrong type would otherwise fail later, when a message is settled.
    if not isinstance(value, timedelta):
        raise TypeError(f"expected {name} to be a timedelta, got {type(value).__name__}")
    return value


def describe(error: BaseException) -> str:
    """Describe an error without payload values, for logs and dead letters.

    Returns:
        The message of formrelay's own errors; the type of any other exception, whose text may
        quote a payload value.
    """
    if isinstance(error, FormrelayError):
        with suppress(Exception):  # a foreign subclass may have a __str__ that raises
            return str(error)
    return type_name(error)


def type_name(error: BaseException) -> str:
    """The type of an error, ``module.QualName``."""
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
