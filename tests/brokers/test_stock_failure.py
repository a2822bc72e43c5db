"""The failure that stock Dramatiq's retries leave in a message."""

from __future__ import annotations

import traceback
from typing import Any

import pytest
from dramatiq import Message

from formrelay.brokers.stock_failure import stock_failure
from formrelay.core.failure import Reason


def message_with(trace: Any) -> Message[Any]:
    return Message("mail", "send", (), {}, {"retries": 2, "traceback": trace})


def traced(text: str) -> str:
    """Return a traceback with a cause, as stock Dramatiq's ``Retries`` writes it."""
    trace = ""
    try:
        try:
            int("x")
        except ValueError as cause:
            raise ConnectionError(text) from cause
    except ConnectionError:
        trace = traceback.format_exc(limit=30)
    return trace


@pytest.mark.parametrize("text", ["", "ann@example.com", "first\nKeyError: ann@example.com"])
def test_the_type_and_places_of_the_last_error_are_read_without_its_text(text: str) -> None:
    failure = stock_failure(message_with(traced(text)), 0.0)
    assert failure is not None
    assert failure.error == "ConnectionError"
    assert failure.message == "dead-lettered by stock Dramatiq after ConnectionError"
    assert (failure.reason, failure.attempt) == (Reason.REJECTED, 2)
    (place,) = failure.where
    assert place.startswith("brokers/test_stock_failure.py:")
    assert place.endswith(" traced")
    assert failure.at == "1970-01-01T00:00:00.000Z"
    assert "ann" not in str(failure)


@pytest.mark.parametrize("trace", [None, 7, "", "ann: no traceback", "Traceback (most recent"])
def test_another_text_is_no_failure(trace: object) -> None:
    assert stock_failure(message_with(trace), None) is None
