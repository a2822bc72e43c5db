"""Values as rows, updates, formats, evictions, and reading back by row key."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from formrelay.sinks.sheets import SheetWriter, attempt
from formrelay.state.claims import MemoryClaims
from tests.sinks.sheets.making import answers, values
from tests.support.google import Book, Fate, Google, Quotas


def put(writer: SheetWriter, *jobs: Any) -> None:
    assert writer.write("book", jobs).failures == {}


def test_values_are_rows_below_the_last_row(writer: SheetWriter, book: Book) -> None:
    book.write(book.tabs[0], 0, 0, "Name", "Age")
    put(writer, values("1", ["Ann", 3], ["Bob", None, "=1+1"]), values("2", [True]))
    assert book.tabs[0].values() == [
        ["Name", "Age"],
        ["Ann", 3],
        ["Bob", None, "=1+1"],
        [True],
    ]


def test_values_start_at_the_first_column_of_the_range(writer: SheetWriter, book: Book) -> None:
    put(writer, values("1", ["Ann", 3], range="Other!C1:D"))
    assert book.tabs[1].values() == [[None, None, "Ann", 3]]


def test_a_date_gets_a_number_format_and_other_rows_keep_theirs(
    writer: SheetWriter, book: Book
) -> None:
    put(writer, values("1", ["2026-01-31", 5]), values("2", [5]))
    first, second = book.tabs[0].cells
    assert first[0]["userEnteredFormat"]["numberFormat"]["type"] == "DATE"
    assert "userEnteredFormat" not in first[1]
    assert "userEnteredFormat" not in second[0]


def test_an_update_writes_its_range_and_leaves_gaps(writer: SheetWriter, book: Book) -> None:
    tab = book.tabs[0]
    book.write(tab, 4, 0, "a", "b", "c", "d")
    job = values("1", ["A", None, "C"], [1], range="Answers!A5:C6", is_update=True)
    put(writer, job)
    assert tab.values()[4:] == [["A", "b", "C", "d"], [1]]
    book.write(tab, 4, 0, "typed later")
    put(writer, job)  # delivered again
    assert tab.values()[4][0] == "typed later"


def update(key: str, value: str, order: int) -> Any:
    return values(key, [value], range="Answers!B2", is_update=True, order=order)


def test_an_older_update_never_overwrites_a_newer_one(
    google: Google, book: Book, make_writer: Callable[[], SheetWriter]
) -> None:
    google.fates.append(Fate("late"))
    assert make_writer().write("book", [update("1", "old", 1)]).failures
    put(make_writer(), update("2", "new", 2))
    google.arrive()  # the call of the older job arrives at last
    assert book.tabs[0].values()[1] == [None, "new"]
    put(make_writer(), update("1", "old", 1))  # the older job is tried again
    assert book.tabs[0].values()[1] == [None, "new"]
    put(make_writer(), update("3", "newest", 4), update("4", "late", 3))
    assert book.tabs[0].values()[1] == [None, "newest"]


def test_a_newer_update_comes_after_an_older_one(
    google: Google, book: Book, make_writer: Callable[[], SheetWriter]
) -> None:
    google.fates.append(Fate("lost"))
    assert make_writer().write("book", [update("2", "new", 2)]).failures
    put(make_writer(), update("1", "old", 1))
    assert book.tabs[0].values()[1] == [None, "new"]
    put(make_writer(), update("3", "newest", 3))
    put(make_writer(), update("2", "new", 2))
    assert book.tabs[0].values()[1] == [None, "newest"]


def test_an_update_with_answers_writes_one_row(writer: SheetWriter, book: Book) -> None:
    tab = book.tabs[0]
    put(writer, answers("1", name="Ann", age=3), answers("2", name="Bob", age=4))
    put(writer, answers("3", "Answers!2:2", age=5, city="Ulm", is_update=True))
    assert tab.values() == [["name", "age", "city"], ["Ann", 5, "Ulm"], ["Bob", 4]]
    failures = writer.write("book", [answers("4", "Answers", age=5, is_update=True)]).failures
    assert "one row" in str(failures[0])


def test_the_same_job_twice_in_a_call_is_one_row(writer: SheetWriter, book: Book) -> None:
    written = writer.write("book", [answers("1", name="Ann"), answers("1", name="Ann")])
    assert written.failures == {}
    assert len(book.tabs[0].cells) == 2


def test_a_large_group_takes_several_calls(google: Google, book: Book, writer: SheetWriter) -> None:
    put(writer, *(values(str(n), ["x" * 45_000] * 5) for n in range(20)))
    assert len(book.tabs[0].cells) == 20
    assert google.calls["spreadsheets.batchUpdate"] == 3


def test_old_entries_are_deleted_on_the_way(
    google: Google, book: Book, writer: SheetWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("formrelay.state.claims.KEEP_ENTRIES", 5)
    for number in range(30):
        put(writer, answers(str(number), name=number))
    calls = [entry for entry in book.entries.values() if entry.key == "fr"]
    assert len(calls) <= 7
    assert google.calls["spreadsheets.batchUpdate"] == 30
    # Somebody else has deleted an entry: the call is repeated without deleting.
    for entry in calls:
        del book.entries[entry.id]
    for number in range(30, 40):
        put(writer, answers(str(number), name=number))
    assert len(book.tabs[0].cells) == 41


def test_a_claim_that_became_too_old_is_made_again(
    google: Google, book: Book, writer: SheetWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 3600.0])  # the machine slept between claim and call
    monkeypatch.setattr(attempt, "_seconds", lambda: next(times, 3600.0))
    tokens = iter(["old", "new"])
    monkeypatch.setattr(attempt, "new_token", lambda: next(tokens))
    put(writer, answers("1", name="Ann"))
    assert google.calls["spreadsheets.batchUpdate"] == 1
    assert [entry.value for entry in book.entries.values() if entry.key == "fr"] == ["new"]


def test_a_call_that_was_not_sent_leaves_no_open_claim(
    google: Google, writer: SheetWriter, claims: MemoryClaims
) -> None:
    google.tokens.expire()
    assert writer.write("book", [answers("1", name="Ann")]).failures
    claim = claims.claim("book", "probe", ["1"])
    assert (claim.open, claim.unknown) == ((), frozenset())


@pytest.mark.parametrize(
    "refuse",
    [
        lambda google: setattr(google, "quotas", Quotas(per_user=0)),
        lambda google: setattr(google.books["book"], "editors", set()),
        lambda google: google.tokens.expire(),
        lambda google: setattr(google, "is_enabled", False),
    ],
    ids=["quota", "permission", "token", "disabled"],
)
def test_a_call_that_was_refused_leaves_no_open_claim(
    google: Google, writer: SheetWriter, claims: MemoryClaims, refuse: Callable[[Google], None]
) -> None:
    put(writer, answers("x", name="x"))  # the layout is known
    refuse(google)
    assert writer.write("book", [answers("1", name="Ann")]).failures
    claim = claims.claim("book", "probe", ["1"])
    assert (claim.open, claim.unknown) == ((), frozenset())


def test_many_open_calls_are_fenced_so_that_their_number_does_not_grow(
    google: Google,
    book: Book,
    writer: SheetWriter,
    claims: MemoryClaims,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("formrelay.state.claims.MANY_OPEN", 3)
    put(writer, answers("x", name="x"))
    for number in range(5):
        google.fates.append(Fate("lost" if number % 2 else "late"))
        assert writer.write("book", [answers(str(number), name=str(number))]).failures
    monkeypatch.setattr("formrelay.state.claims.FENCE", timedelta(0))
    put(writer, answers("y", name="y"))
    assert claims.claim("book", "probe", ["z"]).open == ()
    while google.late:
        google.arrive()
    put(writer, *(answers(str(number), name=str(number)) for number in range(5)))
    names = [row[0] for row in book.tabs[0].values()[1:]]
    assert sorted(names) == ["0", "1", "2", "3", "4", "x", "y"]


@pytest.fixture
def forgetful(make_writer: Callable[[], SheetWriter]) -> Callable[[], SheetWriter]:
    """Makes writers whose store of claims has been lost."""

    def make() -> SheetWriter:
        writer = make_writer()
        writer._claims = MemoryClaims()
        return writer

    return make


def test_rows_are_found_by_their_key_if_the_store_was_lost(
    google: Google, book: Book, forgetful: Callable[[], SheetWriter]
) -> None:
    jobs = [
        answers("1", id="s-1", name="Ann", row_key="id", is_doubtful=True),
        answers("2", id=17, name="Bob", row_key="id", is_doubtful=True),
        answers("3", id="2026-01-31", name="Cem", row_key="id", is_doubtful=True),
    ]
    put(forgetful(), *jobs)
    put(forgetful(), *jobs, answers("4", id="s-4", row_key="id", is_doubtful=True))
    assert [row[1:2] for row in book.tabs[0].values()] == [["name"], ["Ann"], ["Bob"], ["Cem"], []]
    rows = values("5", ["k-1", 1], ["k-2", 2], range="Other", row_key=0, is_doubtful=True)
    put(forgetful(), rows)
    put(forgetful(), rows)
    assert len(book.tabs[1].cells) == 2


def test_a_job_without_doubt_is_written_whatever_its_key(
    google: Google, book: Book, writer: SheetWriter
) -> None:
    put(writer, answers("1", id="same", row_key="id"), answers("2", id="same", row_key="id"))
    put(writer, answers("3", id="same", row_key="id"))
    assert len(book.tabs[0].cells) == 4


def test_without_a_row_key_a_lost_store_is_logged(
    book: Book, forgetful: Callable[[], SheetWriter], caplog: pytest.LogCaptureFixture
) -> None:
    job = answers("1", name="Ann", is_doubtful=True)
    put(forgetful(), job)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "formrelay.workers"):
        put(forgetful(), job)
    assert "rows may be written twice" in caplog.text
    assert len(book.tabs[0].cells) == 3
