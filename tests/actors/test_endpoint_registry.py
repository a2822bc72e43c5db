"""What all processes know together, kept in memory and in Redis."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import orjson
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from formrelay.actors.webhooks import redis_registry
from formrelay.actors.webhooks.endpoint_state import EndpointLimits
from formrelay.actors.webhooks.limiter import EndpointLimiter
from formrelay.actors.webhooks.redis_registry import RedisRegistry
from formrelay.actors.webhooks.registry import (
    Changes,
    DeliveryReport,
    DisableRules,
    EndpointRecord,
    EndpointRegistry,
    MemoryRegistry,
    Position,
)
from formrelay.actors.webhooks.registry_sync import RegistrySync
from formrelay.core.errors import BrokerError
from tests.support.clock import ManualClock

RECORDS, DISABLED, CHANGES = (
    "dramatiq" + name
    for name in (redis_registry.RECORDS, redis_registry.DISABLED, redis_registry.CHANGES)
)
RULES = DisableRules(failures=10, failing_for=timedelta(days=5))
DAY = 86_400.0


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def records(request: pytest.FixtureRequest) -> EndpointRegistry:
    if request.param == "memory":
        return MemoryRegistry()
    url = request.getfixturevalue("redis_url")
    return RedisRegistry(redis.Redis.from_url(url), "the test's Redis")


def report(
    failures: int, *, id: str = "a", at: float = 1.0, worked: bool = False, gone: bool = False
) -> DeliveryReport:
    return DeliveryReport(
        id, "example.com", worked, failures, at, at, 500 if failures else 200, gone
    )


def test_failures_of_all_processes_add_up_and_disable(records: EndpointRegistry) -> None:
    assert records.report([report(6), report(2, id="b")], RULES) == []
    assert records.report([report(3)], RULES) == []
    (disabled,) = records.report([report(1, at=9.0)], RULES)
    assert (disabled.id, disabled.failures, disabled.disabled_at) == ("a", 10, 9.0)
    assert disabled.why == "10 deliveries in a row failed"
    assert records.disabled() == {"a"}
    assert records.report([report(1)], RULES) == []  # it is said once
    assert [one.id for one in records.all()] == ["a", "b"]


def test_a_delivery_that_works_begins_the_count_anew(records: EndpointRegistry) -> None:
    records.report([report(9)], RULES)
    assert records.report([report(2, worked=True)], RULES) == []
    assert records.all()[0].failures == 2
    records.report([report(0, worked=True)], RULES)
    assert records.all() == []  # nothing speaks against it


def test_days_without_one_that_works_disable(records: EndpointRegistry) -> None:
    records.report([report(1, at=DAY)], RULES)
    assert records.report([report(1, at=5.9 * DAY)], RULES) == []
    (disabled,) = records.report([report(1, at=6 * DAY)], RULES)
    assert disabled.why == "no delivery has worked for 5 days"
    assert disabled.failing_since == DAY


def test_one_that_is_gone_is_disabled_at_once(records: EndpointRegistry) -> None:
    (disabled,) = records.report([report(1, gone=True)], RULES)
    assert disabled.why == "it answered 410 (gone)"


def test_an_operator_disables_and_enables(records: EndpointRegistry) -> None:
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
    rules = DisableRules(failures=10_000)

    def many(_: int) -> None:
        records = RedisRegistry(redis.Redis.from_url(redis_url), "Redis")
        for _ in range(25):
            records.report([report(1), report(1, id="b")], rules)

    with ThreadPoolExecutor(4) as four:
        list(four.map(many, range(4)))
    found = RedisRegistry(redis.Redis.from_url(redis_url), "Redis").all()
    assert [(one.id, one.failures) for one in found] == [("a", 100), ("b", 100)]


# -- the book ------------------------------------------------------------------------------


def book(records: EndpointRegistry, clock: ManualClock) -> RegistrySync:
    return RegistrySync(EndpointLimiter(EndpointLimits(in_flight=1)), records, RULES, clock=clock)


def test_what_one_process_disables_the_other_learns(
    records: EndpointRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    one, two = book(records, clock), book(records, clock)
    for _ in range(10):
        one.note("a", "example.com", status=None, is_success=False)
    one.sync()
    two.sync()
    assert one.limiter.disabled == two.limiter.disabled == {"a"}
    (line,) = [line for line in caplog.records if line.message == "endpoint disabled"]
    assert (line.endpoint, line.host) == ("a", "example.com")  # type: ignore[attr-defined]
    records.enable("a")
    two.sync()
    assert two.limiter.disabled == frozenset()


def test_410_holds_here_before_anybody_was_told(records: EndpointRegistry) -> None:
    one = book(records, ManualClock())
    one.note("a", "example.com", status=410, is_success=False)
    assert one.limiter.disabled == {"a"}
    assert records.all() == []
    one.sync()
    assert records.disabled() == {"a"}


def test_while_the_store_is_away_nothing_is_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    away = RedisRegistry(client, "a port that nobody listens on")
    one = book(away, ManualClock())
    for is_success in (False, True, False, False):
        one.note("a", "example.com", status=500, is_success=is_success)
        one.sync()
    assert (
        len([line for line in caplog.records if "endpoint registry unavailable" in line.message])
        == 1
    )
    one.records = records = MemoryRegistry()
    one.sync()
    (found,) = records.all()
    assert found.failures == 2


@pytest.mark.redis
def test_no_record_holds_more_of_an_address_than_its_host(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    RedisRegistry(client, "Redis").report([report(1)], RULES)
    assert b"example.com" in client.hget(RECORDS, "a")  # type: ignore[operator]


# -- what has changed ----------------------------------------------------------------------


def test_changes_since_a_position(records: EndpointRegistry) -> None:
    records.disable("a", why="", now=1.0)
    first = records.changes(None)
    assert (first.is_whole, set(first.disabled), first.count) == (True, {"a"}, 1)
    nothing = records.changes(first.position)
    assert not nothing.is_whole
    assert not [*nothing.disabled, *nothing.enabled]
    records.report([report(1, id="b", gone=True)], RULES)
    records.enable("a")
    later = records.changes(nothing.position)
    assert set(later.disabled) == {"b"}
    assert later.is_whole or set(later.enabled) == {"a"}


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.mark.redis
def test_a_second_without_changes_reads_no_endpoint(client: redis.Redis) -> None:
    records = RedisRegistry(client, "Redis")
    records.report([report(1, id=f"e{number}", gone=True) for number in range(500)], RULES)
    one = book(records, ManualClock())
    one.sync()
    before = client.info("stats")["total_net_output_bytes"]
    for _ in range(10):
        one.sync()
    assert client.info("stats")["total_net_output_bytes"] - before < 10_000
    records.enable("e7")
    client.config_resetstat()
    one.sync()
    assert "cmdstat_smembers" not in client.info("commandstats")
    assert one.limiter.disabled == records.disabled()
    assert len(one.limiter.disabled) == 499


def _lose_the_last_changes(client: redis.Redis, records: EndpointRegistry) -> None:
    """As a failover does to a replica that had not got them."""
    kept = {key: client.dump(key) for key in (RECORDS, DISABLED, CHANGES)}
    records.disable("new", why="", now=1.0)
    records.enable("old-1")
    for key, value in kept.items():
        client.restore(key, 0, value, replace=True)  # type: ignore[arg-type]
    records.enable("never disabled")
    records.enable("old-2")  # so that as many are disabled as were
    records.disable("newer", why="", now=1.0)


def _many(_client: redis.Redis, records: EndpointRegistry) -> None:
    records.report([report(1, id=f"many-{number}", gone=True) for number in range(500)], RULES)


@pytest.mark.redis
@pytest.mark.parametrize(
    "happens",
    [
        lambda client, _: client.flushall(),
        lambda client, _: client.delete(CHANGES),
        lambda client, _: client.xtrim(CHANGES, maxlen=0),
        lambda client, _: client.sadd(DISABLED, "by an older version"),
        lambda client, _: client.srem(DISABLED, "old-1"),
        lambda client, _: client.sadd(DISABLED, b"\xff", b"\xfe"),
        _lose_the_last_changes,
        _many,
    ],
    ids=["flush", "deleted", "trimmed", "added", "removed", "bytes", "failover", "many"],
)
def test_what_cannot_be_followed_is_read_as_a_whole(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, happens: Callable[..., Any]
) -> None:
    monkeypatch.setattr("formrelay.actors.webhooks.redis_registry._MOST_CHANGES", 100)
    records = RedisRegistry(client, "Redis")
    for id in ("old-1", "old-2", "old-3"):
        records.disable(id, why="", now=1.0)
    one = book(records, ManualClock())
    one.sync()
    if happens is _lose_the_last_changes:  # it had learned of what was lost
        real = records.enable
        monkeypatch.setattr(records, "enable", lambda id: (real(id), id == "old-1" and one.sync()))
    happens(client, records)
    for _ in range(2):
        one.sync()
        assert one.limiter.disabled == records.disabled()
    assert client.xlen(CHANGES) <= 200


@pytest.mark.redis
def test_all_processes_agree_in_the_end(redis_url: str) -> None:
    books = [
        book(RedisRegistry(redis.Redis.from_url(redis_url), "Redis"), ManualClock())
        for _ in range(4)
    ]

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(60):
            id = f"e{chance.randrange(20)}"
            if chance.random() < 0.5:
                books[number].note(id, "example.com", status=410, is_success=False)
            else:
                books[number].records.enable(id)
            books[number].sync()

    with ThreadPoolExecutor(4) as four:
        list(four.map(work, range(4)))
    for one in books:
        one.sync()
        assert one.limiter.disabled == one.records.disabled()


class Interrupted(MemoryRegistry):
    """Calls ``between`` when a report was taken in and the answer is on its way."""

    between: Callable[[], None] | None = None

    def changes(self, since: Position | None) -> Changes:
        found = super().changes(since)
        between, self.between = self.between, None
        if between is not None:
            between()
        return found


def test_410_in_the_middle_of_a_sync_holds() -> None:
    records = Interrupted()
    one = book(records, ManualClock())
    one.sync()
    records.disable("b", why="", now=1.0)
    records.between = lambda: one.note("a", "example.com", status=410, is_success=False)
    one.sync()
    assert one.limiter.disabled == {"a", "b"}
    one.sync()
    assert one.limiter.disabled == records.disabled() == {"a", "b"}
    records.enable("a")
    one.sync()
    assert one.limiter.disabled == {"b"}


def test_410_holds_while_the_records_answer_only_half(monkeypatch: pytest.MonkeyPatch) -> None:
    records = MemoryRegistry()
    one = book(records, ManualClock())
    one.note("a", "example.com", status=410, is_success=False)
    with monkeypatch.context() as away:
        away.setattr(records, "changes", _fails(BrokerError()))
        one.sync()
    assert one.limiter.disabled == records.disabled() == {"a"}
    records.enable("a")
    one.sync()
    assert one.limiter.disabled == frozenset()


def _fails(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_what_fails_in_an_unexpected_way_loses_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    records = MemoryRegistry()
    one = book(records, ManualClock())
    one.note("a", "example.com", status=500, is_success=False)
    with monkeypatch.context() as broken:
        broken.setattr(records, "report", _fails(TypeError()))
        with pytest.raises(TypeError):
            one.sync()
    one.sync()
    assert [found.failures for found in records.all()] == [1]


# -- records of other versions ---------------------------------------------------------------


@pytest.mark.redis
@pytest.mark.parametrize(
    ("stored", "failures"),
    [
        ({"id": "a", "host": "h", "failures": 4, "field_of_tomorrow": {"x": 1}}, 5),
        ({"failures": 4}, 5),
        ({}, 1),
        ({"failures": "4", "host": None, "disabled_at": "never", "last_at": []}, 1),
        ([], 1),
        (None, 1),
    ],
)
def test_a_record_of_another_version_stops_nothing(
    client: redis.Redis, stored: Any, failures: int
) -> None:
    records = RedisRegistry(client, "Redis")
    client.hset(RECORDS, "a", orjson.dumps(stored))
    client.hset(RECORDS, "c", b"\x00 no JSON")
    assert [one.id for one in records.all()] == ["a", "c"]
    one = book(records, ManualClock())
    for id in ("a", "b", "c"):
        one.note(id, "example.com", status=500, is_success=False)
    one.sync()
    assert {one.id: one.failures for one in records.all()} == {"a": failures, "b": 1, "c": 1}
    assert records.disable("a", why="by an operator", now=1.0)
    assert records.enable("a")


def test_a_record_comes_back_as_it_was_stored() -> None:
    stored = EndpointRecord("a", "h", 3, 1.5, 500, 2, 3.0, "why", "form-1")
    assert EndpointRecord.from_json("a", orjson.dumps(stored.to_json())) == stored
