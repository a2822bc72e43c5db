"""The one tree of errors.

::

    FormrelayError
    ├── ConfigError             a variable of the environment is wrong
    │   ├── NotConfigured       nothing is wrong, but no broker is named
    │   └── InvalidPolicy       a retry policy is wrong
    ├── InvalidJob              a job does not fit its schema; nothing was enqueued
    ├── BrokerError             (broker_errors.py has the concrete ones)
    ├── NotNow                  the job was not tried: come back later, no attempt used
    ├── SinkError               an outside system did not take the job
    │   ├── SinkTransient       it may work later
    │   │   ├── SinkUnavailable nothing was sent: no connection could be made
    │   │   ├── SinkBusy        it asks to be left alone for a while; it has taken nothing
    │   │   └── SinkUnready     a person has to set it up: a table, a right, a password
    │   └── SinkPermanent       the same job will never be taken
    └── PartsFailed             some parts of a batch failed, each with its own error

A message of these errors never holds a value from a payload or a secret: it
is written to logs and to dead letters as it is. Foreign exceptions are
written by type and place only (:func:`describe`).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta


class FormrelayError(Exception):
    """Something in formrelay failed.

    Attributes:
        accepted: of ``enqueue_many``, the number of messages that are on the broker for certain,
            counted from the first one; others may be.
    """

    accepted: int = 0

    def __init__(self, message: str | None = None) -> None:
        # The docstring is the default message: one text, read by people and by programs.
        # Exception by name: in a class that is Dramatiq's error as well, super() is Dramatiq's
        # first, which does not set args.
        Exception.__init__(self, message or (type(self).__doc__ or "").partition("\n")[0])

    def reword(self, message: str) -> None:
        """Give the error another message; its type and all that it carries stay."""
        self.args = (message,)
        if hasattr(self, "message"):  # Dramatiq's errors keep it there as well
            self.message = message


class ConfigError(FormrelayError):
    """The configuration is wrong."""


class NotConfigured(ConfigError):
    """No broker is configured."""


class InvalidPolicy(ConfigError, ValueError):
    """A retry policy is wrong."""


class InvalidJob(FormrelayError):
    """The job does not fit its schema."""


class BrokerError(FormrelayError):
    """The broker did not do what was asked."""


class NotNow(FormrelayError):
    """The job cannot be tried now.

    Attributes:
        after: how long to leave it.
    """

    def __init__(self, message: str | None = None, *, after: timedelta) -> None:
        super().__init__(message)
        self.after = _duration("after", after)


class SinkError(FormrelayError):
    """An outside system did not take the job.

    Attributes:
        code: what the system answered (an HTTP status, a ClickHouse code), if it did.
        retry_after: what the system asked for (Retry-After), if it did.
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
    """An outside system failed in a way that may pass."""


class SinkUnavailable(SinkTransient):
    """An outside system could not be reached; nothing was sent."""


class SinkBusy(SinkTransient):
    """An outside system asks to be left alone for a while."""


class SinkUnready(SinkTransient):
    """An outside system is not set up for us: a person has to act."""


class SinkPermanent(SinkError):
    """An outside system will never take this job."""


class PartsFailed(FormrelayError):
    """Some parts of a batch failed.

    Attributes:
        failures: the error of each failed part by its index in the batch.
            Parts that are not named here succeeded.
    """

    def __init__(self, failures: Mapping[int, BaseException]) -> None:
        super().__init__(f"{len(failures)} parts of the batch failed")
        for index, error in failures.items():
            if not isinstance(index, int) or not isinstance(error, BaseException):
                raise TypeError("expected failures as an exception by index")
        self.failures = dict(failures)


def _duration(name: str, value: timedelta) -> timedelta:
    # Where it is raised somebody sees it; where it is used, a message would pay for it.
    if not isinstance(value, timedelta):
        raise TypeError(f"expected {name} to be a timedelta, got {type(value).__name__}")
    return value


def describe(error: BaseException) -> str:
    """What may be written about an error where no payload value may appear.

    Our own messages are written to be safe; the text of a foreign exception
    often quotes the value that it choked on, so only its type is given.
    """
    if isinstance(error, FormrelayError):
        with suppress(Exception):  # a subclass of somebody else's may have a __str__ that raises
            return str(error)
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
