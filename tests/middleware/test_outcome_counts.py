"""Counts of settled messages by queue and actor, which only grow."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

from formrelay.core.durations import BIN_ENDS
from formrelay.core.errors import DeferReason
from formrelay.core.failure import Failure, Reason
from formrelay.core.outcomes import DONE, Dead, Defer, Done, Retry
from formrelay.middleware.outcome_counts import (
    BATCH_ENDS,
    MAX_ACTORS,
    MAX_ERROR_TYPES,
    OTHER_LABEL,
    OutcomeCounts,
)

NOW = timedelta(0)


def failure(error: str = "app.Error") -> Failure:
    return Failure(Reason.PERMANENT, error, "no", "2026-11-01T00:00:00Z", 1, "host:1")


def jobs(counts: OutcomeCounts) -> dict[tuple[str, ...], list[float]]:
    """Outcomes and seconds by queue and actor."""
    return {key: row[:5] for key, row in counts.totals()["jobs"].items()}


def test_outcomes_and_seconds_are_counted_by_queue_and_actor() -> None:
    counts = OutcomeCounts()
    counts.add("q", "a", DONE, 0.5)
    counts.add("q", "a", Done(), 0.25)  # equal to DONE, and another object
    counts.add("q", "b", Retry(NOW, failure()), 1.0)
    counts.add("r", "a", Dead(failure()), None)
    counts.add("r", "a", Defer(NOW, "busy"), 9.0)  # not an attempt: its time is not counted
    counts.add_many("r", "b", DONE, 0.5, 4)
    assert jobs(counts) == {
        ("q", "a"): [2, 0, 0, 0, 0.75],
        ("q", "b"): [0, 1, 0, 0, 1.0],
        ("r", "a"): [0, 0, 1, 1, 0],
        ("r", "b"): [4, 0, 0, 0, 2.0],
    }
    row = counts.totals()["jobs"]["r", "b"]
    assert sum(row[5:]) == 4
    assert row[5 + sum(end < 0.5 for end in BIN_ENDS)] == 4


def test_totals_keep_what_was_collected_and_what_ended_threads_counted() -> None:
    counts = OutcomeCounts()
    for _ in range(3):
        thread = threading.Thread(target=counts.add, args=("q", "a", DONE, 0.5))
        thread.start()
        thread.join()
        assert counts.collect()["q"].done == 1  # the difference, for the history
    assert jobs(counts) == {("q", "a"): [3, 0, 0, 0, 1.5]}
    assert counts.collect() == {}
    assert counts._threads == []


def test_only_declared_actors_are_labels_and_not_too_many() -> None:
    counts = OutcomeCounts(is_actor=lambda actor: actor != "jane@example.com")
    counts.add("q", "jane@example.com", Dead(failure()), None)
    assert list(jobs(counts)) == [("q", OTHER_LABEL)]
    for number in range(MAX_ACTORS + 5):
        counts.add("q", f"a{number}", DONE, 0.1)
    found = jobs(counts)
    assert len(found) == MAX_ACTORS + 1
    assert found["q", OTHER_LABEL] == [5, 0, 1, 0, 0.5]


def test_error_types_are_identifiers_and_not_too_many() -> None:
    counts = OutcomeCounts()
    counts.add("q", "a", Retry(NOW, failure("Error: jane@example.com")), 0.1)
    counts.add("q", "a", Retry(NOW, failure("")), 0.1)
    counts.add("q", "a", Dead(failure("app.make.<locals>.Error")), 0.1)
    for number in range(MAX_ERROR_TYPES + 5):
        counts.add("q", "a", Retry(NOW, failure(f"app.E{number}")), 0.1)
    totals = counts.totals()
    assert totals["dead_letters"] == {("q", "app.make.<locals>.Error"): [1]}
    assert len(totals["retries"]) == MAX_ERROR_TYPES  # one type is dead-lettered
    assert totals["retries"]["q", OTHER_LABEL] == [2 + 6]


def test_deferrals_are_counted_by_reason() -> None:
    counts = OutcomeCounts()
    counts.add("q", "a", Defer(NOW, "jane@example.com is busy", DeferReason.BUSY), None)
    counts.add_many("q", "a", Defer(NOW, "no"), None, 3)
    assert counts.totals()["deferrals"] == {("q", "busy"): [1], ("q", "actor"): [3]}


def test_batches_and_lateness_are_histograms() -> None:
    counts = OutcomeCounts()
    for size in (1, 3, 70_000):
        counts.add_batch("q", "a", size)
    counts.add_lateness("q", 0.0)
    counts.add_lateness("q", 10_000.0)
    totals = counts.totals()
    row = totals["batches"]["q", "a"]
    assert row[0] == 70_004
    assert row[1:4] == [1, 0, 1]  # up to 1, 2 and 5 jobs
    assert (row[-1], len(row)) == (1, 2 + len(BATCH_ENDS))  # more than 50,000 jobs
    late = totals["lateness"]["q",]
    assert (late[0], late[1], late[-1]) == (10_000, 1, 1)


def test_declared_actors_are_zero_before_their_first_job() -> None:
    counts = OutcomeCounts()
    counts.add("q", "a", DONE, 0.5)
    found: dict[tuple[str, ...], Any] = counts.totals([("q", "a"), ("q", "b")])["jobs"]
    assert {key: sum(row[:4]) for key, row in found.items()} == {("q", "a"): 1, ("q", "b"): 0}
