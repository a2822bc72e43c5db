"""The worker for Google Sheets, from the job to the cells."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from formrelay.core.errors import InvalidJob
from tests.actors.sheets.conftest import Sheets
from tests.support.google import Book, Fate


def test_answers_are_appended_by_the_names_of_columns(sheets: Sheets) -> None:
    sheets.send(answers={"Name": "Ann", "Age": 44})
    sheets.work_off()
    sheets.send(answers={"Age": 5, "Name": "Bob", "New": True})
    sheets.work_off()
    assert sheets.google.books["book"].tabs[0].values() == [
        ["Name", "Age", "New"],
        ["Ann", 44],
        ["Bob", 5, True],
    ]
    assert sheets.site.dead("sheets") == []


def test_values_are_appended_as_rows(sheets: Sheets) -> None:
    sheets.send(range="Other!A1:C", values=[["a", 1], ["=1+1", None, "c"]])
    sheets.work_off()
    assert sheets.google.books["book"].tabs[1].values() == [["a", 1], ["=1+1", None, "c"]]


def test_an_update_overwrites_its_range(sheets: Sheets) -> None:
    book = sheets.google.books["book"]
    book.write(book.tabs[0], 0, 0, "Name", "Age")
    book.write(book.tabs[0], 1, 0, "Ann", 1)
    sheets.send(range="Answers!A2:B2", values=[[None, 2]], mode="update")
    sheets.work_off()
    assert sheets.google.books["book"].tabs[0].values() == [["Name", "Age"], ["Ann", 2]]


def test_rows_of_many_jobs_are_written_by_one_call(
    sheets: Sheets, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One batch of all, no matter how long a busy machine takes to fetch them.
    options = sheets.site.broker.actors["update_sheet"].options
    monkeypatch.setitem(options, "batch_wait", timedelta(seconds=5))
    for number in range(50):
        sheets.send(answers={"Name": str(number)})
    sheets.work_off()
    assert sorted(sheets.names(), key=int) == [str(number) for number in range(50)]
    assert sheets.writes <= 2  # one for the header row


def test_a_wrong_job_fails_alone(sheets: Sheets) -> None:
    for number in range(4):
        sheets.send(answers={"Name": str(number)})
    message = sheets.site.actors.update_sheet.message(sheets.payload())
    message.kwargs["payload"]["answers"] = {"Name": "x" * 50_001}
    sheets.site.broker.enqueue(message)
    sheets.work_off()
    (dead,) = sheets.site.dead("sheets")
    assert dead.id == message.message_id
    assert "answer 1 of 1: expected" in dead.failure.message
    assert sorted(sheets.names()) == ["0", "1", "2", "3"]


def test_a_spreadsheet_that_refuses_does_not_hold_up_another(sheets: Sheets) -> None:
    sheets.google.books["closed"] = Book("Answers", editors={"bob"})
    sheets.send(spreadsheetId="closed")
    sheets.send(spreadsheetId="gone")
    sheets.send()
    sheets.work_off()
    assert sheets.names() == ["Ann"]
    messages = {dead.failure.message for dead in sheets.site.dead("sheets")}
    assert any("may not edit the spreadsheet" in message for message in messages)
    assert any("does not exist" in message for message in messages)
    assert len(messages) == 2


def test_a_failure_is_retried_and_the_row_written_once(sheets: Sheets) -> None:
    sheets.send()  # so that later calls write rows only
    sheets.work_off()
    sheets.google.fates.extend([Fate("failed_late"), Fate("lost")])
    assert sheets.outcome(answers={"Name": "Bob"}) == []
    assert sheets.names() == ["Ann", "Bob"]


def test_a_job_with_the_same_idempotency_key_is_written_once(sheets: Sheets) -> None:
    for name in ("Ann", "Bob"):
        sheets.send(answers={"Name": name}, metadata={"idempotencyKey": "one"})
        sheets.work_off()
    sheets.send(answers={"Name": "Cid"}, id="1")
    sheets.send(answers={"Name": "Cid"}, id="1")
    sheets.send(answers={"Name": "Dan"}, id="1")  # other content: publishers count from 1 again
    sheets.work_off()
    assert sheets.names() == ["Ann", "Cid", "Dan"]


def test_a_job_that_is_already_done_is_not_written_by_its_replay(sheets: Sheets) -> None:
    sheets.send()
    sheets.work_off()
    sheets.google.fates.extend([Fate("lost"), Fate("dropped"), Fate("dropped")])
    (dead,) = sheets.outcome(answers={"Name": "Bob"})
    assert sheets.site.broker.replay("sheets", dead.id)
    sheets.work_off()
    assert sheets.names() == ["Ann", "Bob"]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"spreadsheetId": "https://docs.google.com/spreadsheets/d/abc/edit"}, "between /d/ and"),
        ({"range": "Answers!1A"}, "range"),
        ({"values": [[1]], "answers": {"a": 1}}, "expected either values or answers, got both"),
        ({"answers": None}, "expected either values or answers, got neither"),
        ({"answers": {}}, "expected answers with a value"),
        ({"values": [[]]}, "expected values with at least one value"),
        ({"answers": {"Name": "x" * 50_001}}, "at most 50000"),
        ({"mode": "delete"}, "'append' or 'update'"),
        ({"mode": "update"}, "one row for an update with answers"),
        ({"values": [[1, 2]], "range": "A1:A1", "mode": "update"}, "fit into range"),
        ({"rowKey": "Email"}, "rowKey to be the name of an answer"),
        ({"values": [[1]], "rowKey": "Name"}, "an index from 0 with values"),
        ({"values": [[1]], "rowKey": 1}, "a value at rowKey in each row"),
        ({"auth": {}}, "expected refresh_token or access_token, got neither"),
        ({"connectionId": "ann", "auth": {"access_token": "x"}}, "either auth or connectionId"),
        ({"rowkey": "Name"}, "probably misspelled: write rowKey"),
        ({"values": [["x"]] * 10_001}, "10000"),
    ],
)
def test_a_bad_job_is_refused_when_it_is_sent(
    sheets: Sheets, changes: dict[str, Any], error: str
) -> None:
    with pytest.raises(InvalidJob) as caught:
        sheets.send(**changes)
    assert error in str(caught.value)
    assert sheets.site.waiting("sheets") == 0
    assert sheets.refresh_token not in str(caught.value)
