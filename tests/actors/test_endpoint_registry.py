"""The endpoint registry in memory and in Redis, and its synchronization with limiters."""

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
    assert records.report([report(1)], RULES) == []  # reported only once
    assert [one.id for one in records.all()] == ["a", "b"]


def test_a_success_resets_the_count(records: EndpointRegistry) -> None:
    records.report([report(9)], RULES)
    assert records.report([report(2, worked=True)], RULES) == []
    assert records.all()[0].failures == 2
    records.report([report(0, worked=True)], RULES)
    assert records.all() == []  # a healthy endpoint has no record


def test_days_without_a_success_disable(records: EndpointRegistry) -> None:
    records.report([report(1, at=DAY)], RULES)
    assert records.report([report(1, at=5.9 * DAY)], RULES) == []
    (disabled,) = records.report([report(1, at=6 * DAY)], RULES)
    assert disabled.why == "no successful delivery for 5 days"
    assert disabled.failing_since == DAY


def test_410_disables_at_once(records: EndpointRegistry) -> None:
    (disabled,) = records.report([report(1, gone=True)], RULES)
    assert disabled.why == "it answered 410 (gone)"


def test_an_operator_disables_and_enables(records: EndpointRegistry) -> None:
    assert records.disable("a", why="by an operator", now=1.0)
    assert not records.disable("a", why="again", now=2.0)
    assert records.disabled() == {"a"}
    records.report([report(0, worked=True)], RULES)
    assert records.disabled() == {"a"}  # a success changes nothing
    assert records.enable("a")
    assert not records.enable("a")
    assert records.disabled() == frozenset()
    assert records.all() == []


@pytest.mark.redis
def test_concurrent_reports_lose_no_failure(redis_url: str) -> None:
    rules = DisableRules(failures=10_000)

    def many(_: int) -> None:
        records = RedisRegistry(redis.Redis.from_url(redis_url), "Redis")
        for _ in range(25):
            records.report([report(1), report(1, id="b")], rules)

    with ThreadPoolExecutor(4) as four:
        list(four.map(many, range(4)))
    found = RedisRegistry(redis.Redis.from_url(redis_url), "Redis").all()
    assert [(one.id, one.failures) for one in found] == [("a", 100), ("b", 100)]


# -- registry sync ---------------------------------------------------------------------------


def make_sync(records: EndpointRegistry, clock: ManualClock) -> RegistrySync:
    return RegistrySync(EndpointLimiter(EndpointLimits(in_flight=1)), records, RULES, clock=clock)


def test_other_processes_learn_of_a_disabled_endpoint(
    records: EndpointRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    one, two = make_sync(records, clock), make_sync(records, clock)
    for _ in range(10):
        one.add("a", "example.com", status=None, is_success=False)
    one.sync()
    two.sync()
    assert one.limiter.disabled == two.limiter.disabled == {"a"}
    (line,) = [line for line in caplog.records if line.message == "endpoint disabled"]
    assert (line.endpoint, line.host) == ("a", "example.com")  # type: ignore[attr-defined]
    records.enable("a")
    two.sync()
    assert two.limiter.disabled == frozenset()


def test_410_disables_in_this_process_before_the_report(records: EndpointRegistry) -> None:
    one = make_sync(records, ManualClock())
    one.add("a", "example.com", status=410, is_success=False)
    assert one.limiter.disabled == {"a"}
    assert records.all() == []
    one.sync()
    assert records.disabled() == {"a"}


def test_an_unavailable_registry_loses_no_report(caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    away = RedisRegistry(client, "a port that nobody listens on")
    one = make_sync(away, ManualClock())
    for is_success in (False, True, False, False):
        one.add("a", "example.com", status=500, is_success=is_success)
        one.sync()
    logged = [line.message for line in caplog.records]
    assert logged.count("endpoint registry unavailable") == 1
    one.registry = records = MemoryRegistry()
    one.sync()
    (found,) = records.all()
    assert found.failures == 2


@pytest.mark.redis
def test_a_record_contains_the_host_of_a_url_only(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    RedisRegistry(client, "Redis").report([report(1)], RULES)
    assert b"example.com" in client.hget(RECORDS, "a")  # type: ignore[operator]


# -- changes ------------------------------------------------------------------------------


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
    one = make_sync(records, ManualClock())
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


def _fail_over(client: redis.Redis, records: EndpointRegistry) -> None:
    """Lose the last changes, as a failover to a replica without them does."""
    kept = {key: client.dump(key) for key in (RECORDS, DISABLED, CHANGES)}
    records.disable("new", why="", now=1.0)
    records.enable("old-1")
    for key, value in kept.items():
        client.restore(key, 0, value, replace=True)  # type: ignore[arg-type]
    records.enable("never disabled")
    records.enable("old-2")  # so that the number of disabled endpoints is the same
    records.disable("newer", why="", now=1.0)


def _disable_many(_client: redis.Redis, records: EndpointRegistry) -> None:
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
        _fail_over,
        _disable_many,
    ],
    ids=["flush", "deleted", "trimmed", "added", "removed", "bytes", "failover", "many"],
)
def test_the_whole_set_is_read_if_changes_are_missing(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch, happens: Callable[..., Any]
) -> None:
    monkeypatch.setattr("formrelay.actors.webhooks.redis_registry._MAX_CHANGES", 100)
    records = RedisRegistry(client, "Redis")
    for id in ("old-1", "old-2", "old-3"):
        records.disable(id, why="", now=1.0)
    one = make_sync(records, ManualClock())
    one.sync()
    if happens is _fail_over:  # the sync has read a change that is then lost
        real = records.enable
        monkeypatch.setattr(records, "enable", lambda id: (real(id), id == "old-1" and one.sync()))
    happens(client, records)
    for _ in range(2):
        one.sync()
        assert one.limiter.disabled == records.disabled()
    assert client.xlen(CHANGES) <= 200


@pytest.mark.redis
def test_all_processes_agree_in_the_end(redis_url: str) -> None:
    syncs = [
        make_sync(RedisRegistry(redis.Redis.from_url(redis_url), "Redis"), ManualClock())
        for _ in range(4)
    ]

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(60):
            id = f"e{chance.randrange(20)}"
            if chance.random() < 0.5:
                syncs[number].add(id, "example.com", status=410, is_success=False)
            else:
                syncs[number].registry.enable(id)
            syncs[number].sync()

    with ThreadPoolExecutor(4) as four:
        list(four.map(work, range(4)))
    for one in syncs:
        one.sync()
        assert one.limiter.disabled == one.registry.disabled()


class Interrupted(MemoryRegistry):
    """Calls ``between`` after the changes are read, before they are returned."""

    between: Callable[[], None] | None = None

    def changes(self, since: Position | None) -> Changes:
        found = super().changes(since)
        between, self.between = self.between, None
        if between is not None:
            between()
        return found


def test_a_410_during_a_sync_disables() -> None:
    records = Interrupted()
    one = make_sync(records, ManualClock())
    one.sync()
    records.disable("b", why="", now=1.0)
    records.between = lambda: one.add("a", "example.com", status=410, is_success=False)
    one.sync()
    assert one.limiter.disabled == {"a", "b"}
    one.sync()
    assert one.limiter.disabled == records.disabled() == {"a", "b"}
    records.enable("a")
    one.sync()
    assert one.limiter.disabled == {"b"}


def test_a_410_disables_if_changes_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    records = MemoryRegistry()
    one = make_sync(records, ManualClock())
    one.add("a", "example.com", status=410, is_success=False)
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


def test_an_unexpected_error_loses_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    records = MemoryRegistry()
    one = make_sync(records, ManualClock())
    one.add("a", "example.com", status=500, is_success=False)
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
def test_records_of_other_versions_are_readable(
    client: redis.Redis, stored: Any, failures: int
) -> None:
    records = RedisRegistry(client, "Redis")
    client.hset(RECORDS, "a", orjson.dumps(stored))
    client.hset(RECORDS, "c", b"\x00 no JSON")
    assert [one.id for one in records.all()] == ["a", "c"]
    one = make_sync(records, ManualClock())
    for id in ("a", "b", "c"):
        one.add(id, "example.com", status=500, is_success=False)
    one.sync()
    assert {one.id: one.failures for one in records.all()} == {"a": failures, "b": 1, "c": 1}
    assert records.disable("a", why="by an operator", now=1.0)
    assert records.enable("a")


def test_a_record_comes_back_as_it_was_stored() -> None:
    stored = EndpointRecord("a", "h", 3, 1.5, 500, 2, 3.0, "why", "form-1")
    assert EndpointRecord.from_json("a", orjson.dumps(stored.to_json())) == stored
