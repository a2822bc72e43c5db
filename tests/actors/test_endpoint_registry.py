"""The endpoint registry in memory and in Redis, and its synchronization with limiters."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from formrelay.core.errors import BrokerError, SinkTransient
from tests.support.clock import ManualClock

RECORDS, DISABLED, CHANGES = (
    "dramatiq" + name
    for name in (redis_registry.RECORDS, redis_registry.DISABLED, redis_registry.CHANGES)
)
RULES = DisableRules(failures=10, failing_for=timedelta(days=5))
DAY = 86_400.0


@pytest.fixture(params=["memory", pytest.param("redis", marks=pytest.mark.redis)])
def registry(request: pytest.FixtureRequest) -> EndpointRegistry:
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


def test_failures_of_all_processes_add_up_and_disable(registry: EndpointRegistry) -> None:
    assert registry.report([report(6), report(2, id="b")], RULES) == []
    assert registry.report([report(3)], RULES) == []
    (disabled,) = registry.report([report(1, at=9.0)], RULES)
    assert (disabled.id, disabled.failures, disabled.disabled_at) == ("a", 10, 9.0)
    assert disabled.why == "10 deliveries in a row failed"
    assert registry.disabled() == {"a"}
    assert registry.report([report(1)], RULES) == []  # reported only once
    assert [record.id for record in registry.all()] == ["a", "b"]


def test_a_success_resets_the_count(registry: EndpointRegistry) -> None:
    registry.report([report(9)], RULES)
    assert registry.report([report(2, worked=True)], RULES) == []
    assert registry.all()[0].failures == 2
    registry.report([report(0, worked=True)], RULES)
    assert registry.all() == []  # a healthy endpoint has no record


def test_days_without_a_success_disable(registry: EndpointRegistry) -> None:
    registry.report([report(1, at=DAY)], RULES)
    assert registry.report([report(1, at=5.9 * DAY)], RULES) == []
    (disabled,) = registry.report([report(1, at=6 * DAY)], RULES)
    assert disabled.why == "no successful delivery for 5 days"
    assert disabled.failing_since == DAY


def test_410_disables_at_once(registry: EndpointRegistry) -> None:
    (disabled,) = registry.report([report(1, gone=True)], RULES)
    assert disabled.why == "the endpoint answered 410 (Gone)"


def test_an_operator_disables_and_enables(registry: EndpointRegistry) -> None:
    assert registry.disable("a", why="by an operator", now=1.0)
    assert not registry.disable("a", why="again", now=2.0)
    assert registry.disabled() == {"a"}
    registry.report([report(0, worked=True)], RULES)
    assert registry.disabled() == {"a"}  # a success changes nothing
    assert registry.enable("a")
    assert not registry.enable("a")
    assert registry.disabled() == frozenset()
    assert registry.all() == []


@pytest.mark.redis
def test_concurrent_reports_lose_no_failure(redis_url: str) -> None:
    rules = DisableRules(failures=10_000)

    def many(_: int) -> None:
        registry = RedisRegistry(redis.Redis.from_url(redis_url), "Redis")
        for _ in range(25):
            registry.report([report(1), report(1, id="b")], rules)

    with ThreadPoolExecutor(4) as four:
        list(four.map(many, range(4)))
    found = RedisRegistry(redis.Redis.from_url(redis_url), "Redis").all()
    assert [(record.id, record.failures) for record in found] == [("a", 100), ("b", 100)]


# -- registry sync ---------------------------------------------------------------------------


def make_sync(registry: EndpointRegistry, clock: ManualClock) -> RegistrySync:
    return RegistrySync(EndpointLimiter(EndpointLimits(in_flight=1)), registry, RULES, clock=clock)


def test_other_processes_learn_of_a_disabled_endpoint(
    registry: EndpointRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    worker, other = make_sync(registry, clock), make_sync(registry, clock)
    for _ in range(10):
        worker.add("a", "example.com", status=None, is_success=False)
    worker.sync()
    other.sync()
    assert worker.limiter.disabled == other.limiter.disabled == {"a"}
    (line,) = [line for line in caplog.records if line.message == "endpoint disabled"]
    assert (line.endpoint, line.host) == ("a", "example.com")  # type: ignore[attr-defined]
    registry.enable("a")
    other.sync()
    assert other.limiter.disabled == frozenset()


async def fail_at(sync: RegistrySync, *, sync_before_end: bool = False) -> None:
    """Fail a delivery to the endpoint "a"; the sync may run just before it ends."""
    with suppress(SinkTransient):
        async with sync.limiter.webhook_delivery("a"):
            sync.add("a", "example.com", status=500, is_success=False)
            if sync_before_end:
                sync.sync()
            raise SinkTransient(code=500)


@pytest.mark.parametrize("sync_before_end", [False, True])
def test_all_processes_see_until_when_a_circuit_breaker_is_open(
    registry: EndpointRegistry, sync_before_end: bool
) -> None:
    clock = ManualClock()
    limits = EndpointLimits(in_flight=1, failures=2, open_for=timedelta(seconds=30))
    worker = RegistrySync(EndpointLimiter(limits, clock=clock), registry, RULES, clock=clock)
    asyncio.run(fail_at(worker))
    worker.sync()
    assert registry.all()[0].open_until is None
    asyncio.run(fail_at(worker, sync_before_end=sync_before_end))
    worker.sync()
    (record,) = registry.all()
    assert (record.failures, record.open_until) == (2, clock.now + 30)
    worker.sync()
    assert registry.all() == [record]
    worker.add("a", "example.com", status=200, is_success=True)
    worker.add("a", "example.com", status=500, is_success=False)
    worker.sync()
    assert registry.all()[0].open_until is None


def test_an_unavailable_registry_loses_no_open_circuit_breaker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    registry, clock = MemoryRegistry(), ManualClock()
    limits = EndpointLimits(in_flight=1, failures=1)
    worker = RegistrySync(EndpointLimiter(limits, clock=clock), registry, RULES, clock=clock)
    asyncio.run(fail_at(worker))

    def report_late(*_: Any) -> Any:
        clock.now += 5
        worker.add("a", "example.com", status=500, is_success=False)  # in flight when it opened
        raise BrokerError("no Redis")

    with monkeypatch.context() as broken:
        broken.setattr(registry, "report", report_late)
        worker.sync()
    worker.sync()
    (record,) = registry.all()
    assert (record.failures, record.open_until) == (2, clock.now + 25)


def test_410_disables_in_this_process_before_the_report(registry: EndpointRegistry) -> None:
    worker = make_sync(registry, ManualClock())
    worker.add("a", "example.com", status=410, is_success=False)
    assert worker.limiter.disabled == {"a"}
    assert registry.all() == []
    worker.sync()
    assert registry.disabled() == {"a"}


def test_an_unavailable_registry_loses_no_report(caplog: pytest.LogCaptureFixture) -> None:
    client = redis.Redis(port=1, retry=Retry(NoBackoff(), 0))
    unavailable = RedisRegistry(client, "a port that nobody listens on")
    worker = make_sync(unavailable, ManualClock())
    for is_success in (False, True, False, False):
        worker.add("a", "example.com", status=500, is_success=is_success)
        worker.sync()
    logged = [line.message for line in caplog.records]
    assert logged.count("endpoint registry unavailable") == 1
    worker.registry = registry = MemoryRegistry()
    worker.sync()
    (found,) = registry.all()
    assert found.failures == 2


@pytest.mark.redis
def test_a_record_contains_the_host_of_a_url_only(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    RedisRegistry(client, "Redis").report([report(1)], RULES)
    assert b"example.com" in client.hget(RECORDS, "a")  # type: ignore[operator]


# -- changes of the disabled endpoints --------------------------------------------------------


def test_changes_since_a_position(registry: EndpointRegistry) -> None:
    registry.disable("a", why="", now=1.0)
    first = registry.changes(None)
    assert (first.is_whole, set(first.disabled), first.count) == (True, {"a"}, 1)
    nothing = registry.changes(first.position)
    assert not nothing.is_whole
    assert not [*nothing.disabled, *nothing.enabled]
    registry.report([report(1, id="b", gone=True)], RULES)
    registry.enable("a")
    later = registry.changes(nothing.position)
    assert set(later.disabled) == {"b"}
    assert later.is_whole or set(later.enabled) == {"a"}


@pytest.fixture
def client(redis_url: str) -> redis.Redis:
    return redis.Redis.from_url(redis_url)


@pytest.mark.redis
def test_a_sync_without_changes_reads_no_endpoint(client: redis.Redis) -> None:
    registry = RedisRegistry(client, "Redis")
    registry.report([report(1, id=f"e{number}", gone=True) for number in range(500)], RULES)
    worker = make_sync(registry, ManualClock())
    worker.sync()
    before = client.info("stats")["total_net_output_bytes"]
    for _ in range(10):
        worker.sync()
    assert client.info("stats")["total_net_output_bytes"] - before < 10_000
    registry.enable("e7")
    client.config_resetstat()
    worker.sync()
    assert "cmdstat_smembers" not in client.info("commandstats")
    assert worker.limiter.disabled == registry.disabled()
    assert len(worker.limiter.disabled) == 499


def _fail_over(client: redis.Redis, registry: EndpointRegistry) -> None:
    """Lose the last changes, as a failover to a replica without them does."""
    kept = {key: client.dump(key) for key in (RECORDS, DISABLED, CHANGES)}
    registry.disable("new", why="", now=1.0)
    registry.enable("old-1")
    for key, value in kept.items():
        client.restore(key, 0, value, replace=True)  # type: ignore[arg-type]
    registry.enable("never disabled")
    registry.enable("old-2")  # so that the number of disabled endpoints is the same
    registry.disable("newer", why="", now=1.0)


def _disable_many(_client: redis.Redis, registry: EndpointRegistry) -> None:
    registry.report([report(1, id=f"many-{number}", gone=True) for number in range(500)], RULES)


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
    registry = RedisRegistry(client, "Redis")
    for id in ("old-1", "old-2", "old-3"):
        registry.disable(id, why="", now=1.0)
    worker = make_sync(registry, ManualClock())
    worker.sync()
    if happens is _fail_over:  # the sync has read a change that is then lost
        real = registry.enable
        monkeypatch.setattr(
            registry, "enable", lambda id: (real(id), id == "old-1" and worker.sync())
        )
    happens(client, registry)
    for _ in range(2):
        worker.sync()
        assert worker.limiter.disabled == registry.disabled()
    assert client.xlen(CHANGES) <= 200


@pytest.mark.redis
def test_all_processes_agree_in_the_end(redis_url: str) -> None:
    workers = [
        make_sync(RedisRegistry(redis.Redis.from_url(redis_url), "Redis"), ManualClock())
        for _ in range(4)
    ]

    def work(number: int) -> None:
        chance = random.Random(number)
        for _ in range(60):
            id = f"e{chance.randrange(20)}"
            if chance.random() < 0.5:
                workers[number].add(id, "example.com", status=410, is_success=False)
            else:
                workers[number].registry.enable(id)
            workers[number].sync()

    with ThreadPoolExecutor(4) as four:
        list(four.map(work, range(4)))
    for worker in workers:
        worker.sync()
        assert worker.limiter.disabled == worker.registry.disabled()


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
    registry = Interrupted()
    worker = make_sync(registry, ManualClock())
    worker.sync()
    registry.disable("b", why="", now=1.0)
    registry.between = lambda: worker.add("a", "example.com", status=410, is_success=False)
    worker.sync()
    assert worker.limiter.disabled == {"a", "b"}
    worker.sync()
    assert worker.limiter.disabled == registry.disabled() == {"a", "b"}
    registry.enable("a")
    worker.sync()
    assert worker.limiter.disabled == {"b"}


def test_a_410_disables_if_changes_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = MemoryRegistry()
    worker = make_sync(registry, ManualClock())
    worker.add("a", "example.com", status=410, is_success=False)
    with monkeypatch.context() as unavailable:
        unavailable.setattr(registry, "changes", _fails(BrokerError()))
        worker.sync()
    assert worker.limiter.disabled == registry.disabled() == {"a"}
    registry.enable("a")
    worker.sync()
    assert worker.limiter.disabled == frozenset()


def _fails(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_an_unexpected_error_loses_no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = MemoryRegistry()
    worker = make_sync(registry, ManualClock())
    worker.add("a", "example.com", status=500, is_success=False)
    with monkeypatch.context() as broken:
        broken.setattr(registry, "report", _fails(TypeError()))
        with pytest.raises(TypeError):
            worker.sync()
    worker.sync()
    assert [found.failures for found in registry.all()] == [1]


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
    registry = RedisRegistry(client, "Redis")
    client.hset(RECORDS, "a", orjson.dumps(stored))
    client.hset(RECORDS, "c", b"\x00 no JSON")
    assert [record.id for record in registry.all()] == ["a", "c"]
    worker = make_sync(registry, ManualClock())
    for id in ("a", "b", "c"):
        worker.add(id, "example.com", status=500, is_success=False)
    worker.sync()
    assert {record.id: record.failures for record in registry.all()} == {
        "a": failures,
        "b": 1,
        "c": 1,
    }
    assert registry.disable("a", why="by an operator", now=1.0)
    assert registry.enable("a")


def test_a_stored_record_is_read_unchanged() -> None:
    stored = EndpointRecord("a", "h", 3, 1.5, 500, 2, 3.0, "why", "form-1", 4.5)
    assert EndpointRecord.from_json("a", orjson.dumps(stored.to_json())) == stored
