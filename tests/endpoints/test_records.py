"""What all processes know together, kept in memory and in Redis."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.support.clock import ManualClock

from formrelay.endpoints import Book, Gate, Limits, MemoryRecords, Records, Rules
from formrelay.endpoints.records import Report
from formrelay.endpoints.redis_records import RECORDS, RedisRecords

RULES = Rules(failures=10, failing_for=timedelta(days=5))
DAY = 86_400.0


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def records(request: pytest.FixtureRequest) -> Records:
    if request.param == "memory":
        return MemoryRecords()
    url = request.getfixturevalue("redis_url")
    return RedisRecords(redis.Redis.from_url(url), "the test's Redis")


def report(
    failures: int, *, id: str = "a", at: float = 1.0, worked: bool = False, gone: bool = False
) -> Report:
    return Report(id, "example.com", worked, failures, at, at, 500 if failures else 200, gone)


def test_failures_of_all_processes_add_up_and_disable(records: Records) -> None:
    assert records.report([report(6), report(2, id="b")], RULES) == []
    assert records.report([report(3)], RULES) == []
    (disabled,) = records.report([report(1, at=9.0)], RULES)
    assert (disabled.id, disabled.failures, disabled.disabled_at) == ("a", 10, 9.0)
    assert disabled.why == "10 deliveries in a row failed"
    assert records.disabled() == {"a"}
    assert records.report([report(1)], RULES) == []  # it is said once
    assert [one.id for one in records.all()] == ["a", "b"]


def test_a_delivery_that_works_begins_the_count_anew(records: Records) -> None:
    records.report([report(9)], RULES)
    assert records.report([report(2, worked=True)], RULES) == []
    assert records.all()[0].failures == 2
    records.report([report(0, worked=True)], RULES)
    assert records.all() == []  # nothing speaks against it


def test_days_without_one_that_works_disable(records: Records) -> None:
    records.report([report(1, at=DAY)], RULES)
    assert records.report([report(1, at=5.9 * DAY)], RULES) == []
    (disabled,) = records.report([report(1, at=6 * DAY)], RULES)
    assert disabled.why == "no delivery has worked for 5 days"
    assert disabled.failing_since == DAY


def test_one_that_is_gone_is_disabled_at_once(records: Records) -> None:
    (disabled,) = records.report([report(1, gone=True)], RULES)
    assert disabled.why == "it answered 410 (gone)"


def test_an_operator_disables_and_enables(records: Records) -> None:
    assert records.disable("a", why="by an operator", now=1.0)
    assert not records.disable("a", why="again", now=2.0)
    assert records.disabled() == {"a"}
    records.report([report(0, worked=True)], RULES)
    assert records.disabled() == {"a"}  # one that was under way changes nothing
    assert records.enable("a")
    assert not records.enable("a")
    assert records.disabled() == frozenset()
    assert records.all() == []


@pytest.mark.redis
def test_processes_that_report_at_one_time_lose_no_count(redis_url: str) -> None:
    rules = Rules(failures=10_000)

    def many(_: int) -> None:
        records = RedisRecords(redis.Redis.from_url(redis_url), "Redis")
        for _ in range(25):
            records.report([report(1), report(1, id="b")], rules)

    with ThreadPoolExecutor(4) as four:
        list(four.map(many, range(4)))
    found = RedisRecords(redis.Redis.from_url(redis_url), "Redis").all()
    assert [(one.id, one.failures) for one in found] == [("a", 100), ("b", 100)]


# -- the book ------------------------------------------------------------------------------


def book(records: Records, clock: ManualClock) -> Book:
    return Book(Gate(Limits(in_flight=1)), records, RULES, clock=clock)


def test_what_one_process_disables_the_other_learns(
    records: Records, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    one, two = book(records, clock), book(records, clock)
    for _ in range(10):
        one.note("a", "example.com", status=None, is_success=False)
    one.sync()
    two.sync()
    assert one.gate.disabled == two.gate.disabled == {"a"}
    (line,) = [line for line in caplog.records if line.message == "endpoint disabled"]
    assert (line.endpoint, line.host) == ("a", "example.com")  # type: ignore[attr-defined]
    records.enable("a")
    two.sync()
    assert two.gate.disabled == frozenset()


def test_410_holds_here_before_anybody_was_told(records: Records) -> None:
    one = book(records, ManualClock())
    one.note("a", "example.com", status=410, is_success=False)
    assert one.gate.disabled == {"a"}
    assert records.all() == []
    one.sync()
    assert records.disabled() == {"a"}


def test_while_the_store_is_away_nothing_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    away = RedisRecords(client, "a port that nobody listens on")
    one = book(away, ManualClock())
    for is_success in (False, True, False, False):
        one.note("a", "example.com", status=500, is_success=is_success)
        one.sync()
    assert len([line for line in caplog.records if "cannot be shared" in line.message]) == 1
    one.records = records = MemoryRecords()
    one.sync()
    (found,) = records.all()
    assert found.failures == 2


@pytest.mark.redis
def test_no_record_holds_more_of_an_address_than_its_host(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    RedisRecords(client, "Redis").report([report(1)], RULES)
    assert b"example.com" in client.hget(f"dramatiq{RECORDS}", "a")  # type: ignore[operator]
