"""The tree of errors, and their messages without values."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from datetime import timedelta

import pytest

from formrelay.brokers import errors as broker_errors
from formrelay.brokers.envelope import Undecodable
from formrelay.brokers.rabbitmq.errors import PartlyRefused
from formrelay.core import errors
from formrelay.core.errors import (
    FormrelayError,
    NotNow,
    PartsFailed,
    SinkError,
    SinkPermanent,
    SinkTransient,
    SinkUnavailable,
    describe,
)
from formrelay.core.signing import SignatureInvalid
from formrelay.middleware.outcomes import Expired, UnknownActor
from formrelay.sinks.http import HttpNotAllowed

SECRET = "SECRET-VALUE"


def tree(root: type[FormrelayError]) -> Iterator[type[FormrelayError]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


def needs_arguments(kind: type[FormrelayError]) -> bool:
    parameters = list(inspect.signature(kind).parameters.values())
    named = [one for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    return any(one.default is one.empty for one in named)


#: formrelay's errors whose default message is their docstring: they need no arguments.
PLAIN = [
    kind
    for kind in tree(FormrelayError)
    if kind.__module__.startswith("formrelay.") and not needs_arguments(kind)
]


def test_the_tree_includes_the_errors_of_other_packages() -> None:
    assert {
        Undecodable,
        SignatureInvalid,
        Expired,
        UnknownActor,
        HttpNotAllowed,
        broker_errors.BrokerRefused,
        broker_errors.BrokerUnavailable,
        broker_errors.MessageTooLarge,
    } <= set(PLAIN)


@pytest.mark.parametrize("kind", PLAIN, ids=lambda kind: kind.__name__)
def test_the_default_message_is_the_first_line_of_the_docstring(
    kind: type[FormrelayError],
) -> None:
    line = inspect.getdoc(kind).splitlines()[0]  # type: ignore[union-attr]
    assert str(kind()) == line
    assert line.endswith(".")
    assert str(kind("another")) == "another"


def test_not_now_has_a_default_message_and_a_wait() -> None:
    error = NotNow(after=timedelta(seconds=3))
    assert (str(error), error.after) == ("The job cannot be tried now.", timedelta(seconds=3))


def test_sink_errors_have_the_code_and_retry_after_of_the_response() -> None:
    error = SinkTransient("busy", code=503, retry_after=timedelta(seconds=7))
    assert (str(error), error.code, error.retry_after) == ("busy", 503, timedelta(seconds=7))
    assert (SinkPermanent().code, SinkPermanent().retry_after) == (None, None)


def test_unavailable_is_transient_and_permanent_is_not() -> None:
    assert issubclass(SinkUnavailable, SinkTransient)
    assert issubclass(SinkTransient, SinkError)
    assert not issubclass(SinkPermanent, SinkTransient)


def test_parts_failed_counts_its_parts_and_omits_their_messages() -> None:
    given = {2: ValueError(SECRET), 5: SinkPermanent("refused")}
    error = PartsFailed(given)
    assert str(error) == "2 parts of the batch failed"
    assert error.failures == given
    given.clear()
    assert len(error.failures) == 2


class Foreign(Exception):
    """An exception of another package."""


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError(SECRET), "ValueError"),
        (KeyError(SECRET), "KeyError"),
        (UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, SECRET), "UnicodeDecodeError"),
        (ExceptionGroup(SECRET, [ValueError(SECRET)]), "ExceptionGroup"),
        (Foreign(SECRET), f"{__name__}.Foreign"),
        (SinkPermanent("expected another form"), "expected another form"),
        (errors.InvalidJob(), "The job does not fit its schema."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_exceptions_of_other_packages_are_described_by_their_type_alone(
    error: BaseException, text: str
) -> None:
    assert describe(error) == text


def test_a_reworded_error_keeps_its_type_and_attributes() -> None:
    error = PartlyRefused("two were refused", [1, 3], 5)
    error.reword("the transaction is committed, but two were refused")
    assert str(error) == error.message == "the transaction is committed, but two were refused"
    assert (error.refused, error.count) == ((1, 3), 5)
