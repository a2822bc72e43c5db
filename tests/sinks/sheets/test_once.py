"""Rows are written once: any order of kills, lost answers, late calls and regrouping."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from formrelay.core.errors import NotNow, SinkTransient
from formrelay.sinks.sheets import SheetWriter, attempt
from formrelay.state import StateRedis
from formrelay.state.claims import MemoryClaims
from formrelay.state.redis.claims import RedisClaims
from formrelay.state.redis.connection import connect_redis
from tests.sinks.sheets.making import answers
from tests.sinks.sheets.once_machine import Once
from tests.support.google import Book, Fate, Google


@pytest.fixture(autouse=True)
def evicts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries of finished calls are deleted at once, which is the hardest case."""
    for module in ("state.claims", "state.redis.claims"):
        monkeypatch.setattr(f"formrelay.{module}.KEEP_ENTRIES", 0)


def run(make_claims: Callable[[], Any], examples: int, *, shrinks: bool = True) -> None:
    machine = type("Machine", (Once,), {"make_claims": staticmethod(make_claims)})
    options = settings(
        max_examples=examples,
        stateful_step_count=12,
        phases=[Phase.generate, Phase.shrink] if shrinks else [Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=options)


@pytest.mark.slow
def test_rows_are_written_once_whatever_happens() -> None:
    run(MemoryClaims, 60)


@pytest.mark.slow
@pytest.mark.redis
def test_rows_are_written_once_with_claims_in_redis(redis_url: str) -> None:
    client = connect_redis(redis_url, timeout=timedelta(seconds=5))

    def make() -> RedisClaims:
        client.flushdb()
        return RedisClaims(StateRedis(client, "here"))

    run(make, 15)


def keys(book: Book) -> list[Any]:
    return [row[0] for row in book.tabs[0].values()[1:]]


def test_a_late_call_is_refused_after_its_successor(
    google: Google, book: Book, make_writer: Callable[[], SheetWriter]
) -> None:
    google.fates.append(Fate("late"))
    jobs = [answers(key, key=key) for key in ("a", "b")]
    written = make_writer().write("book", jobs)
    assert {type(error) for error in written.failures.values()} == {SinkTransient}
    # The jobs come back in other company, on another worker.
    assert make_writer().write("book", [jobs[1], answers("c", key="c")]).failures == {}
    google.arrive()
    assert keys(book) == ["b", "c"]
    assert make_writer().write("book", jobs).failures == {}
    assert keys(book) == ["b", "c", "a"]


def test_a_late_call_that_arrives_first_is_found(
    google: Google, book: Book, make_writer: Callable[[], SheetWriter]
) -> None:
    google.fates.append(Fate("late"))
    jobs = [answers(key, key=key) for key in ("a", "b")]
    make_writer().write("book", jobs)
    google.arrive()
    written = make_writer().write("book", [jobs[1], answers("c", key="c")])
    assert (written.failures, written.rows) == ({}, 2)
    assert keys(book) == ["a", "b", "c"]
    # Nothing needs to be asked about the other job of the late call.
    before = google.calls.total()
    assert make_writer().write("book", jobs).failures == {}
    assert google.calls.total() == before


@pytest.mark.parametrize("refuses", [True, False])
def test_an_entry_stays_while_a_late_call_may_need_it(
    google: Google, book: Book, make_writer: Callable[[], SheetWriter], refuses: bool
) -> None:
    book.refuses_empty_deletes = refuses
    job = answers("a", key="a")
    make_writer().write("book", [answers("x", key="x")])  # the tab has its columns
    for _ in range(2):  # the second call fences the first
        google.fates.append(Fate("late"))
        make_writer().write("book", [job])
    google.arrive(0)
    assert make_writer().write("book", [job, answers("b", key="b")]).failures == {}
    assert make_writer().write("book", [answers("c", key="c")]).failures == {}
    google.arrive()
    assert keys(book) == ["x", "a", "b", "c"]


def test_without_fences_a_late_call_writes_rows_twice(
    google: Google,
    book: Book,
    make_writer: Callable[[], SheetWriter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shows that the stand-in executes late calls, so that the tests above mean something."""
    whole = attempt.Attempt._plan

    def without_fences(self: Any, token: str, claim: Any, *rest: Any) -> Any:
        return whole(self, token, type(claim)(claim.done, claim.unknown, (), ()), *rest)

    monkeypatch.setattr(attempt.Attempt, "_plan", without_fences)
    make_writer().write("book", [answers("x", key="x")])  # the tab has its columns
    google.fates.append(Fate("late"))
    make_writer().write("book", [answers("a", key="a")])
    make_writer().write("book", [answers("a", key="a")])
    google.arrive()
    assert keys(book) == ["x", "a", "a"]
    with pytest.raises(AssertionError):
        run(MemoryClaims, 300, shrinks=False)


def test_a_lost_answer_costs_one_question(google: Google, book: Book, writer: SheetWriter) -> None:
    writer.write("book", [answers("x", key="x")])
    google.fates.append(Fate("lost"))
    job = answers("a", key="a")
    assert writer.write("book", [job]).failures
    before = google.calls.copy()
    assert writer.write("book", [job]).failures == {}
    assert google.calls - before == {
        "spreadsheets.batchUpdate": 1,
        "spreadsheets.developerMetadata.search": 1,
    }
    assert keys(book) == ["x", "a"]


def test_an_unavailable_store_defers_the_jobs(writer: SheetWriter, google: Google) -> None:
    from formrelay.core.broker_errors import BrokerUnavailable

    def fail(*_: Any) -> Any:
        raise BrokerUnavailable("away")

    writer._claims = type("Broken", (), {"claim": fail})()
    failures = writer.write("book", [answers("a", key="a")]).failures
    assert isinstance(failures[0], NotNow)
    assert google.calls.total() == 0
