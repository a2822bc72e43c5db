"""Fields stay bound to their columns, whatever people do with the spreadsheet."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from formrelay.sinks.sheets import (
    Layouts,
    SheetRefused,
    SheetsClient,
    SheetWriter,
)
from formrelay.state.claims import MemoryClaims
from tests.sinks.sheets.making import answers, values
from tests.support.google import Book, DirectTransport, Google, Tab


@pytest.fixture
def tab(book: Book) -> Tab:
    return book.tabs[0]


@pytest.fixture
def writer(google: Google) -> SheetWriter:
    """A writer that reads the layout before each call."""
    token = google.tokens.new_access("ann")
    client = SheetsClient(lambda _: token, DirectTransport(google))
    return SheetWriter(client, MemoryClaims(), Layouts(timedelta(0)))


def put(writer: SheetWriter, *jobs: Any) -> None:
    assert writer.write("book", jobs).failures == {}


def test_an_empty_tab_gets_headers_in_order(writer: SheetWriter, tab: Tab) -> None:
    put(writer, answers("1", name="Ann", age=3), answers("2", age=4, city="Ulm"))
    assert tab.values() == [["name", "age", "city"], ["Ann", 3], [None, 4, "Ulm"]]
    assert tab.columns == 26


def test_headers_of_a_person_are_used_and_stay(writer: SheetWriter, book: Book, tab: Tab) -> None:
    book.write(tab, 0, 0, "Number", " name ", "Comment")
    book.write(tab, 1, 0, 1, "Zoe", "typed by hand")
    put(writer, answers("1", name="Ann", city="Ulm"))
    assert tab.values() == [
        ["Number", " name ", "Comment", "city"],
        [1, "Zoe", "typed by hand"],
        [None, "Ann", None, "Ulm"],
    ]


def test_columns_may_be_moved_renamed_and_hidden(writer: SheetWriter, book: Book, tab: Tab) -> None:
    put(writer, answers("1", name="Ann", age=3))
    book.move_column(tab, 0, 4)
    book.write(tab, 0, 4, "Full name")
    put(writer, answers("2", name="Bob", age=4))
    assert [[row[0], row[4]] for row in tab.values()] == [
        ["age", "Full name"],
        [3, "Ann"],
        [4, "Bob"],
    ]


def test_a_new_field_never_takes_the_renamed_column_of_another(
    writer: SheetWriter, book: Book, tab: Tab
) -> None:
    put(writer, answers("1", name="Ann"))
    book.write(tab, 0, 0, "city")
    put(writer, answers("2", name="Bob", city="Ulm"))
    assert tab.values() == [["city", "city"], ["Ann"], ["Bob", "Ulm"]]


def test_rows_may_be_inserted_above_the_headers(writer: SheetWriter, book: Book, tab: Tab) -> None:
    put(writer, answers("1", name="Ann"))
    book.insert_rows(tab, 0, 2)
    book.write(tab, 0, 0, "The survey of 2026")
    put(writer, answers("2", name="Bob", city="Ulm"))
    assert tab.values() == [["The survey of 2026"], [], ["name", "city"], ["Ann"], ["Bob", "Ulm"]]


def test_rows_may_be_inserted_between_and_are_never_overwritten(
    writer: SheetWriter, book: Book, tab: Tab
) -> None:
    put(writer, answers("1", name="Ann"))
    book.insert_rows(tab, 1)
    book.write(tab, 5, 3, "a note far below")
    put(writer, answers("2", name="Bob"))
    assert [row[:1] for row in tab.values()] == [["name"], [], ["Ann"], [], [], [None], ["Bob"]]


def test_a_tab_may_be_renamed(writer: SheetWriter, book: Book, tab: Tab) -> None:
    put(writer, answers("1", name="Ann"))
    tab.title = "Survey 2026"
    put(writer, answers("2", name="Bob"))
    assert tab.values() == [["name"], ["Ann"], ["Bob"]]
    # A new tab with the old name is meant from now on.
    book.tabs.append(Tab(77, "Answers"))
    put(writer, answers("3", name="Cem"))
    assert book.tabs[-1].values() == [["name"], ["Cem"]]


def test_tabs_may_be_reordered_when_the_job_names_none(
    writer: SheetWriter, book: Book, tab: Tab
) -> None:
    put(writer, answers("1", "A1:Z", name="Ann"))
    book.tabs.reverse()
    put(writer, answers("2", "A1:Z", name="Bob"))
    assert tab.values() == [["name"], ["Ann"], ["Bob"]]


def test_an_unknown_tab_is_a_clear_error(writer: SheetWriter) -> None:
    (error,) = writer.write("book", [answers("1", "Nowhere", name="Ann")]).failures.values()
    assert isinstance(error, SheetRefused)
    assert error.kind == "range"


def test_data_beside_the_table_is_moved_not_overwritten(
    writer: SheetWriter, book: Book, tab: Tab
) -> None:
    put(writer, answers("1", name="Ann"))
    book.write(tab, 1, 1, "a note without a header")
    put(writer, answers("2", name="Bob", city="Ulm"))
    assert tab.values() == [
        ["name", "city"],
        ["Ann", None, "a note without a header"],
        ["Bob", "Ulm"],
    ]


def test_data_without_headers_is_moved_not_overwritten(
    writer: SheetWriter, book: Book, tab: Tab
) -> None:
    book.write(tab, 3, 0, "some", "data")
    put(writer, answers("1", name="Ann"))
    assert tab.values()[0] == ["name"]
    assert tab.values()[3] == [None, "some", "data"]
    assert tab.values()[4] == ["Ann"]


def test_a_deleted_column_is_added_again(writer: SheetWriter, book: Book, tab: Tab) -> None:
    put(writer, answers("1", name="Ann", age=3))
    book.delete_column(tab, 0)
    put(writer, answers("2", name="Bob", age=4))
    assert tab.values() == [["age", "name"], [3], [4, "Bob"]]


def test_a_table_may_start_anywhere(writer: SheetWriter, book: Book, tab: Tab) -> None:
    book.write(tab, 2, 1, "name")
    put(writer, answers("1", "Answers!B3:F", name="Ann", city="Ulm"))
    assert tab.values()[2:] == [[None, "name", "city"], [None, "Ann", "Ulm"]]


def test_a_full_grid_gets_columns(writer: SheetWriter, tab: Tab) -> None:
    tab.columns = 2
    put(writer, answers("1", a=1, b=2, c=3))
    put(writer, values("2", [1, 2, 3, 4, 5]))
    assert tab.values() == [["a", "b", "c"], [1, 2, 3], [1, 2, 3, 4, 5]]
    assert tab.columns == 5


def test_two_workers_add_a_question_once(
    google: Google, book: Book, tab: Tab, make_writer: Callable[..., SheetWriter]
) -> None:
    one, transport = make_writer(), DirectTransport(google)
    two = make_writer(transport)
    put(one, answers("1", name="Ann"))

    def first() -> None:
        transport.before_write = lambda: None
        put(one, answers("2", name="Bob", city="Ulm"))

    transport.before_write = first
    put(two, answers("3", name="Cem", city="Bonn"))
    assert tab.values() == [["name", "city"], ["Ann"], ["Bob", "Ulm"], ["Cem", "Bonn"]]


def test_a_column_moved_between_reading_and_writing_is_logged(
    google: Google,
    book: Book,
    tab: Tab,
    make_writer: Callable[..., SheetWriter],
    caplog: pytest.LogCaptureFixture,
) -> None:
    transport = DirectTransport(google)
    writer = make_writer(transport)
    put(writer, answers("1", name="Ann", age=3))
    transport.before_write = lambda: book.move_column(tab, 0, 1)
    with caplog.at_level(logging.ERROR, "formrelay.workers"):
        put(writer, answers("2", name="Bob", age=4))
    assert "columns were moved while rows were written" in caplog.text
    transport.before_write = lambda: None
    put(writer, answers("3", name="Cem", age=5))
    assert tab.values()[-1] == [5, "Cem"]


def test_the_layout_costs_no_calls_while_rows_are_coming(
    google: Google, make_writer: Callable[..., SheetWriter]
) -> None:
    writer = make_writer()
    for number in range(20):
        jobs = [answers(f"{number}-{n}", id=n, name="Ann") for n in range(500)]
        put(writer, *jobs)
    assert google.calls.total() <= 23, google.calls
    assert len(google.books["book"].tabs[0].cells) == 10_001
