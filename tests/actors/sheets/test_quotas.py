"""Quotas and slots: waiting uses no attempt, and holds up no other spreadsheet."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from formrelay.actors.resources import open_tokens
from formrelay.actors.sheets.quotas import Quotas
from formrelay.actors.sheets.resources import sheet_resources
from formrelay.actors.sheets.slots import Slots
from formrelay.brokers import State
from formrelay.config import get_settings
from formrelay.core.errors import NotNow
from formrelay.sinks.sheets import QuotaExceeded
from formrelay.state.connections import connection_id
from formrelay.state.rate_limits import MemoryRateLimits
from tests.actors.sheets.conftest import Sheets, make_due
from tests.support.clock import ManualClock
from tests.support.google import Book, Fate
from tests.support.google import Quotas as GoogleQuotas
from tests.support.waiting import wait_until


def test_a_used_up_quota_defers_its_own_jobs_alone(sheets: Sheets) -> None:
    sheets.google.books["bobs"] = Book("Answers", editors={"bob"})
    sheets.google.quotas = GoogleQuotas(per_project=10**9, per_user=4)
    for number in range(6):  # 429 after two or three calls
        sheets.site.start("sheets")
        sheets.send(answers={"Name": str(number)})
        wait_until(lambda: sheets.site.broker.counts("sheets").waiting == 0)
        wait_until(lambda: sheets.site.broker.counts("sheets").in_flight == 0)
        sheets.site.stop()
    calls = sheets.google.calls.total()
    assert 0 < len(sheets.names()) < 6
    sheets.send(spreadsheetId="bobs", auth={"access_token": sheets.google.tokens.new_access("bob")})
    sheets.site.start("sheets")
    wait_until(lambda: sheets.names("bobs") == ["Ann"])
    sheets.site.stop()
    deferred = sheets.site.broker.inspector.browse("sheets", State.SCHEDULED).entries
    assert len(deferred) == 6 - len(sheets.names())
    assert [each.failure for each in deferred] == [None] * len(deferred)
    assert sheets.site.dead("sheets") == []
    # Only the first refused call reached Google: the workers know the quota then.
    assert sheets.google.calls.total() - calls <= 3  # bob's calls
    limit = sheet_resources().quotas._user["write"]
    assert limit.number + limit.capacity - 1 == 4


def exceeded(limit: str, **changes: Any) -> QuotaExceeded:
    found: dict[str, Any] = {
        "after": timedelta(seconds=30),
        "metric": "sheets.googleapis.com/write_requests",
        "limit": limit,
        "value": 1000,
        "per": timedelta(minutes=1),
    }
    return QuotaExceeded(**found | changes)


def test_the_quota_of_a_user_is_learnt_and_stops_that_user_alone() -> None:
    quotas = Quotas(MemoryRateLimits(), 300, 10)
    quotas.learn(exceeded("WriteRequestsPerMinutePerUser"), "read", "ann")
    with pytest.raises(NotNow) as caught:
        quotas.take("write", "ann")
    assert timedelta(seconds=25) < caught.value.after <= timedelta(seconds=32)
    for _ in range(30):  # the learnt quota is higher than the one given
        quotas.take("write", "bob")
    quotas.take("read", "ann")


def test_the_quota_of_a_project_stops_all_users() -> None:
    quotas = Quotas(MemoryRateLimits(), 300, 60)
    quotas.learn(exceeded("WriteRequestsPerMinutePerProject", value=None), "write", "ann")
    with pytest.raises(NotNow):
        quotas.take("write", "bob")
    quotas.take("read", "bob")


def test_the_quota_of_another_project_stops_its_connection_alone() -> None:
    quotas = Quotas(MemoryRateLimits(), 300, 60)
    error = exceeded("WriteRequestsPerMinutePerProject", value=1)
    quotas.learn(error, "write", "ann", is_foreign=True)
    with pytest.raises(NotNow):
        quotas.take("write", "ann")
    for _ in range(3):
        quotas.take("write", "bob")


def test_an_access_token_of_a_job_says_nothing_about_the_quota_of_the_project(
    sheets: Sheets,
) -> None:
    sheets.google.quotas = GoogleQuotas(per_project=0, per_user=10**9)
    sheets.send(auth={"access_token": sheets.google.tokens.new_access("ann")})
    sheets.site.start("sheets")
    wait_until(lambda: sheets.site.broker.counts("sheets").scheduled == 1)
    sheets.site.stop()
    sheet_resources().quotas.take("read", "bob")
    sheet_resources().quotas.take("write", "bob")


def test_an_absurd_quota_is_no_error() -> None:
    quotas = Quotas(MemoryRateLimits(), 300, 60)
    quotas.learn(exceeded("WriteRequestsPerMinutePerUser", value=10**18), "write", "ann")
    quotas.learn(exceeded("", metric="", value=0, per=None), "write", "ann")


def test_a_spreadsheet_is_written_to_by_one_batch_at_a_time() -> None:
    slots = Slots(2, rows=500, clock=ManualClock())
    with slots.hold("a", 500):
        # Full batches come back one after the other, small ones together.
        waits = [wait_of(slots, "a", rows) for rows in (500, 500, 1, 499, 1)]
        assert waits == [1, 2, 3, 3, 4]
        assert wait_of(slots, "a", 500 * 10_000) == 5
        assert [wait_of(slots, "a", 500) for _ in range(100)][-1] == 60
        with slots.hold("b", 1), pytest.raises(NotNow, match="maximum number of spreadsheets"):
            slots.hold("c", 1).__enter__()
        with slots.hold("c", 1):
            pass
    with slots.hold("a", 1):
        pass


def wait_of(slots: Slots, sheet: str, rows: int) -> float:
    with pytest.raises(NotNow, match="another batch") as caught, slots.hold(sheet, rows):
        pass
    return caught.value.after.total_seconds()


def test_small_batches_that_were_deferred_become_one_batch(sheets: Sheets) -> None:
    sheets.google.tokens.revoke("ann")
    sheets.site.start("sheets")
    for number in range(6):  # each a batch of its own
        sheets.send(answers={"Name": str(number)})
        wait_until(lambda: sheets.site.broker.counts("sheets").scheduled == number + 1)  # noqa: B023
    sheets.site.stop()
    open_tokens(get_settings()).consent(
        connection_id("sheets", sheets.refresh_token), sheets.google.tokens.consent("ann")
    )
    make_due(sheets)
    sheets.work_off()
    assert sorted(sheets.names()) == list("012345")
    assert sheets.writes == 1


def test_a_spreadsheet_that_hangs_holds_up_no_other(sheets: Sheets) -> None:
    sheets.google.books["other"] = Book("Answers", editors={"ann"})
    hanging = Fate("held")
    sheets.google.fates.append(hanging)
    sheets.site.start("sheets")
    sheets.send()
    assert hanging.reached.wait(30)
    for _ in range(3):
        sheets.send(answers={"Name": "Bob"})
        sheets.send(spreadsheetId="other")
    wait_until(lambda: len(sheets.names("other")) == 3)
    assert sheets.names() == []
    hanging.released.set()
    wait_until(lambda: len(sheets.names()) == 4)
    wait_until(lambda: sheets.site.is_idle("sheets"))
    sheets.site.stop()
    assert sheets.site.dead("sheets") == []


def test_jobs_for_two_spreadsheets_that_are_fetched_together_do_not_wait_for_each_other(
    sheets: Sheets,
) -> None:
    sheets.google.books["other"] = Book("Answers", editors={"ann"})
    hanging = Fate("held")
    sheets.google.fates.append(hanging)
    for _ in range(2):
        sheets.send()
        sheets.send(spreadsheetId="other")
    sheets.site.start("sheets")
    assert hanging.reached.wait(30)
    # The first call hangs, for whichever spreadsheet it is.
    wait_until(lambda: len(sheets.names()) + len(sheets.names("other")) == 2)
    hanging.released.set()
    wait_until(lambda: len(sheets.names()) == len(sheets.names("other")) == 2)
    wait_until(lambda: sheets.site.is_idle("sheets"))
    sheets.site.stop()
