"""Errors of Google itself pause the queue and use no attempt; others do not pause it."""

from __future__ import annotations

import pytest

from formrelay.actors.resources import sheets_throttle
from formrelay.brokers import State
from tests.actors.sheets.conftest import Sheets
from tests.support.google import Book, Fate
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.mark.parametrize("what", ["no connection", "API disabled"])
def test_the_queue_waits_while_google_serves_nobody(sheets: Sheets, what: str) -> None:
    if what == "no connection":
        sheets.use(api_url="http://127.0.0.1:1")
    sheets.google.is_enabled = what == "no connection"
    sheets.send()
    sheets.site.start("sheets")
    wait_until(lambda: sheets_throttle.is_tripped)
    wait_until(lambda: sheets.site.broker.counts("sheets").scheduled == 1)
    sheets.site.stop()
    (entry,) = sheets.site.broker.inspector.browse("sheets", State.SCHEDULED).entries
    assert entry.failure is None  # no attempt was used
    sheets.google.is_enabled = True
    sheets.use()
    sheets.work_off()
    assert sheets.names() == ["Ann"]
    assert not sheets_throttle.is_tripped


def test_a_token_of_another_google_project_pauses_nothing(sheets: Sheets) -> None:
    sheets.google.is_enabled = False  # in the project of the program that sent the token
    sheets.send(auth={"access_token": sheets.google.tokens.new_access("ann")})
    sheets.site.start("sheets")
    wait_until(lambda: sheets.site.broker.counts("sheets").scheduled == 1)
    assert not sheets_throttle.is_tripped
    sheets.google.is_enabled = True
    sheets.send()
    wait_until(lambda: sheets.names() == ["Ann"])
    sheets.site.stop()
    (entry,) = sheets.site.broker.inspector.browse("sheets", State.SCHEDULED).entries
    assert entry.failure is None  # no attempt was used


def test_errors_of_one_spreadsheet_pause_nothing(sheets: Sheets) -> None:
    sheets.google.books["closed"] = Book("Answers", editors={"bob"})
    sheets.google.fates.append(Fate("failed"))
    sheets.send(spreadsheetId="closed")
    sheets.send(connectionId="unknown")
    sheets.send()
    sheets.site.start("sheets")
    wait_until(lambda: sheets.names() == ["Ann"])
    wait_until(lambda: len(sheets.site.dead("sheets")) == 1)
    wait_until(lambda: sheets.site.broker.counts("sheets").scheduled == 1)
    assert not sheets_throttle.is_tripped
    sheets.site.stop()
