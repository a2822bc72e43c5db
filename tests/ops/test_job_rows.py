"""What ``formrelay jobs`` says of the last failure of a job."""

from __future__ import annotations

from typing import Any

import pytest
from dramatiq import Message

from formrelay.brokers import Entry, State
from formrelay.core.failure import Failure, Reason
from formrelay.ops.cli.job_json import as_json, why


def entry(state: State, reason: Reason) -> Entry:
    message: Message[Any] = Message("webhooks", "deliver_webhook", (), {}, {}, "id-1", 1)
    failure = Failure.of(ValueError(), reason=reason, attempt=2, now=1.0)
    return Entry("webhooks", "id-1", state, message, failure=failure)


@pytest.mark.parametrize("state", [State.SCHEDULED, State.WAITING, State.IN_FLIGHT])
def test_a_job_that_is_retried_has_not_exhausted_its_attempts(state: State) -> None:
    found = entry(state, Reason.ATTEMPTS_EXHAUSTED)
    assert as_json(found)["failure"]["reason"] is None
    assert (why(found) or "").startswith("attempt 2: ")


@pytest.mark.parametrize(
    ("state", "reason"),
    [(State.DEAD, Reason.ATTEMPTS_EXHAUSTED), (State.SCHEDULED, Reason.UNDECIDED)],
)
def test_other_reasons_are_shown(state: State, reason: Reason) -> None:
    found = entry(state, reason)
    assert as_json(found)["failure"]["reason"] == reason.value
    assert (why(found) or "").startswith(f"{reason.value}: ")
