"""Records of past attempts: what they say, and that a message never carries too many."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
import pytest

from formrelay.core.errors import SinkTransient
from formrelay.core.failure import Failure, Reason
from formrelay.core.outcomes import Dead, Defer, Outcome, Retry
from formrelay.core.past_attempts import (
    MOST_ATTEMPTS,
    MOST_BYTES,
    PastAttempt,
    appended,
    read_attempts,
    with_failure,
)

NOW = 1_700_000_000.125


def failure(attempt: int, text: str = "busy", *, now: float = NOW) -> Failure:
    error = SinkTransient(text, code=503)
    return Failure.of(error, reason=Reason.ATTEMPTS_EXHAUSTED, attempt=attempt, now=now)


def retried(attempt: int, text: str = "busy") -> PastAttempt:
    outcome = Retry(timedelta(seconds=30), failure(attempt, text))
    return PastAttempt.of(outcome, attempt=attempt, now=NOW)


def deferred(attempt: int, why: str = "away", count: int = 1) -> PastAttempt:
    return PastAttempt(attempt, NOW, "defer", message=why, next_in=1, count=count)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (
            Retry(timedelta(seconds=30), failure(2)),
            {"outcome": "retry", "message": "busy", "next_in": 30.0},
        ),
        (Dead(failure(2)), {"outcome": "dead", "message": "busy"}),
        (
            Defer(timedelta(milliseconds=1500), "the sink is away"),
            {"outcome": "defer", "message": "the sink is away", "next_in": 1.5},
        ),
    ],
)
def test_a_record_says_when_how_long_why_and_what_comes_next(
    outcome: Any, expected: dict[str, Any]
) -> None:
    made = PastAttempt.of(outcome, attempt=2, now=NOW, took=0.01234, is_redelivered=True)
    about = {"attempt": 2, "at": NOW, "took": 0.012, "redelivered": True, **expected}
    if not isinstance(outcome, Defer):
        about["error"] = "formrelay.core.errors.SinkTransient"
    assert made.to_json() == about
    assert PastAttempt.from_json(orjson.loads(orjson.dumps(about))) == made


def test_the_text_of_a_foreign_error_is_not_in_a_record() -> None:
    error = ValueError("Ann Other")
    found = Failure.of(error, reason=Reason.ATTEMPTS_EXHAUSTED, attempt=1, now=NOW)
    record = PastAttempt.of(Dead(found), attempt=1, now=NOW).to_json()
    assert record == {"attempt": 1, "at": NOW, "outcome": "dead", "error": "ValueError"}


@pytest.mark.parametrize("text", ["x" * 5000, "\u20ac" * 5000, "\ud800" * 5000, '"\\\x01' * 2000])
def test_the_list_is_bounded_in_number_and_in_bytes_and_keeps_the_newest(text: str) -> None:
    found: list[Any] = []
    for attempt in range(1, 30):
        outcomes: list[Outcome] = [
            Retry(timedelta(1), failure(attempt, text)),
            Defer(timedelta(1), text),
        ]
        for outcome in outcomes:
            assert isinstance(outcome, Retry | Defer)
            ended = PastAttempt.of(outcome, attempt=attempt, now=NOW)
            found = appended(found, ended)
            assert len(found) <= MOST_ATTEMPTS
            assert len(orjson.dumps(found)) <= MOST_BYTES + 2
            assert found[-1] == ended.to_json()


def test_a_list_without_room_is_empty() -> None:
    assert appended([], retried(1), most_bytes=20) == []


def test_deferrals_in_a_row_are_one_record_with_their_number() -> None:
    found: list[Any] = []
    for number in range(1_000):
        found = appended(found, deferred(2, f"away {number}"))
    assert found == [deferred(2, "away 999", count=1_000).to_json()]
    for ended in (retried(2), deferred(3), deferred(3)):
        found = appended(found, ended)
    assert [(one["outcome"], one.get("count", 1)) for one in found] == [
        ("defer", 1_000),
        ("retry", 1),
        ("defer", 2),
    ]


def test_a_failure_without_a_record_is_added_at_its_time() -> None:
    known = [retried(1), retried(2)]
    assert with_failure(known, failure(2), "retry") == known
    assert with_failure(known, None, "retry") == known
    late = failure(3, now=NOW + 60)
    assert [one.attempt for one in with_failure(known, late, "dead")] == [1, 2, 3]
    early = failure(0, now=NOW - 60)
    assert [one.attempt for one in with_failure(known, early, "dead")] == [0, 1, 2]
    # A deferral of an attempt is not its failure.
    assert len(with_failure([deferred(3)], failure(3), "retry")) == 2
    # The same number after a replay is another attempt.
    assert len(with_failure(known, failure(2, now=NOW + 60), "retry")) == 3


@pytest.mark.parametrize(
    "data",
    [
        None,
        5,
        "text",
        {},
        [None, 5, {}, {"outcome": 1}],
        [[]],
        [{"outcome": "x", "attempt": "1", "at": True, "took": "?", "count": None, "error": 1}],
        [{"outcome": "defer", "attempt": 1e300, "at": float("nan"), "count": float("inf")}],
    ],
)
def test_what_another_program_wrote_is_read_without_an_error(data: Any) -> None:
    assert with_failure(read_attempts(data), failure(1), "retry")[-1].attempt == 1
    for ended in (retried(1), deferred(1)):
        assert appended(data if isinstance(data, list) else [], ended)[-1] == ended.to_json()
