"""Jobs with the same idempotency key run once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from dramatiq import pipeline
from dramatiq.middleware import CurrentMessage

from formrelay.brokers import BrokerUnavailable
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.core.errors import ConfigError, SinkPermanent, SinkTransient
from formrelay.core.failure import Reason
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.state import MemoryIdempotencyStore
from formrelay.state.idempotency import Finished, IdempotencyStore, Once
from formrelay.state.redis.idempotency import RedisIdempotencyStore
from tests.middleware.lines import Lines, lines
from tests.support.harness import Harness
from tests.support.waiting import wait_until

__all__ = ["lines"]

SOON = RetryPolicy(max_attempts=2, jitter=0, backoff=Schedule((timedelta(milliseconds=20),)))


@pytest.fixture
def store(harness: Harness) -> IdempotencyStore:
    """The store that is used if STATE_URL is not set."""
    broker = harness.broker
    if isinstance(broker, RedisBroker):
        return RedisIdempotencyStore(broker.state)
    return MemoryIdempotencyStore()


@pytest.fixture
def once(store: IdempotencyStore) -> Callable[..., Once]:
    def make(**options: Any) -> Once:
        return Once(lambda name, **_: name, lambda: store, **options)

    return make


def test_a_job_that_is_sent_many_times_runs_once(
    harness: Harness, once: Callable[..., Once], lines: Lines
) -> None:
    ran: list[str] = []
    actor = harness.actor(lambda name: ran.append(name), actor_name="work", idempotency=once())
    for _ in range(5):
        for name in ("a", "b"):
            actor.send(name)
    harness.start()

    def done() -> list[dict[str, Any]]:
        return [one for one in lines.of("attempt") if one["outcome"] == "done"]

    attempts = wait_until(lambda: done() if len(done()) == 10 else None)
    wait_until(harness.is_empty)
    assert sorted(ran) == ["a", "b"]
    assert sum(one.get("isRepeat", False) for one in attempts) == 8


def test_duplicates_of_a_running_job_wait_for_its_result(
    harness: Harness, once: Callable[..., Once], lines: Lines
) -> None:
    ran: list[str] = []
    is_over = Event()

    def work(name: str) -> str:
        ran.append(name)
        is_over.wait(20)
        return "kept"

    actor = harness.actor(work, policy=SOON, idempotency=once())
    for _ in range(4):
        actor.send("a")
    harness.start()
    wait_until(lambda: [one for one in lines.of("attempt") if one["outcome"] == "defer"])
    wait_until(lambda: ran == ["a"])
    is_over.set()
    wait_until(harness.is_empty)
    harness.stop()
    assert ran == ["a"]
    assert harness.dead() == []
    assert "has been discarded" not in lines.text


def test_dramatiq_warns_of_the_discarded_result_of_a_job_without_a_key(
    harness: Harness, lines: Lines
) -> None:
    option = Once(lambda name: None if name == "no key" else name)
    actor = harness.actor(lambda name: name, actor_name="work", idempotency=option)
    actor.send("no key")
    actor.send("a key")
    harness.start()
    wait_until(harness.is_empty)
    harness.stop()
    assert lines.text.count("'work' returned a value that is not None") == 1


def test_a_failed_job_runs_again(harness: Harness, once: Callable[..., Once]) -> None:
    ran: list[str] = []

    def work(name: str) -> None:
        ran.append(name)
        if len(ran) == 1:
            raise SinkTransient
        if name == "b":
            raise SinkPermanent

    actor = harness.actor(work, policy=SOON, idempotency=once())
    actor.send("a")
    harness.start()
    wait_until(lambda: ran == ["a", "a"])
    wait_until(harness.is_empty)
    for count in (3, 4):  # a dead letter leaves no result, so that its replay runs
        actor.send("b")
        wait_until(lambda count=count: len(ran) == count)  # type: ignore[misc]
    wait_until(lambda: len(harness.dead()) == 2)


def test_jobs_without_a_key_run_like_any_other(harness: Harness, store: IdempotencyStore) -> None:
    ran: list[Any] = []
    once = Once(lambda order: order["id"], lambda: store)
    actor = harness.actor(lambda order: ran.append(order), actor_name="w", idempotency=once)
    for _ in range(2):
        actor.send({"id": None})
        actor.send({"id": "a"})
    harness.start()
    wait_until(harness.is_empty)
    harness.stop()
    assert len(ran) == 3


def test_a_duplicate_passes_the_first_result_to_the_next_job_of_its_pipeline(
    harness: Harness, store: IdempotencyStore, once: Callable[..., Once]
) -> None:
    ran: list[Any] = []
    results: list[Any] = []

    def work(name: str) -> dict[str, str]:
        ran.append(name)
        return {"for": name}

    first = harness.actor(work, idempotency=once())
    second = harness.actor(lambda result: results.append(result), actor_name="second")
    for _ in range(2):
        pipeline([first.message("a"), second.message()], broker=harness.broker).run()
    harness.start()
    wait_until(lambda: len(results) == 2)
    assert results == [{"for": "a"}] * 2
    assert ran == ["a"]


def test_a_lock_is_renewed_while_its_job_runs(
    harness: Harness, store: IdempotencyStore, once: Callable[..., Once]
) -> None:
    lock = timedelta(seconds=1)
    ran: list[str] = []
    is_over = Event()
    renewed: list[str] = []

    class Counting:
        def __getattr__(self, name: str) -> Any:
            return getattr(store, name)

        def renew(self, key: str, owner: str, lock: timedelta) -> bool:
            renewed.append(key)
            return store.renew(key, owner, lock)

    def work(name: str) -> None:
        ran.append(name)
        is_over.wait(30)

    counting: Any = Counting()
    option = Once(lambda name: name, lambda: counting, lock=lock)
    actor = harness.actor(work, idempotency=option)
    for _ in range(2):
        actor.send("a")
    harness.start()
    wait_until(lambda: len(renewed) >= 4)  # half a second each, together twice as long as the lock
    assert ran == ["a"]
    is_over.set()
    wait_until(harness.is_empty)
    assert ran == ["a"]
    count = len(renewed)
    actor.send("b")
    wait_until(lambda: ran == ["a", "b"])
    assert len(renewed) <= count + 1


def test_the_lock_of_a_dead_worker_expires(
    harness: Harness, store: IdempotencyStore, once: Callable[..., Once]
) -> None:
    ran: list[str] = []
    actor = harness.actor(
        lambda name: ran.append(name),
        actor_name="work",
        idempotency=once(lock=timedelta(seconds=1)),
    )
    (key,) = {claim_key(harness, "work", "a")}
    assert store.begin(key, "a worker that was killed", timedelta(seconds=1)) is None
    actor.send("a")
    harness.start()
    wait_until(lambda: ran == ["a"])
    wait_until(lambda: isinstance(store.begin(key, "x", timedelta(seconds=1)), Finished))


def claim_key(harness: Harness, actor: str, key: str) -> str:
    import hashlib

    return hashlib.sha256(f"{actor}\n{key}".encode()).hexdigest()


def test_an_unavailable_store_defers_jobs_without_using_an_attempt(
    harness: Harness, store: IdempotencyStore, lines: Lines
) -> None:
    is_back = Event()
    attempts: list[int] = []

    class Away:
        def __getattr__(self, name: str) -> Any:
            if not is_back.is_set():
                raise BrokerUnavailable("the state store is away")
            return getattr(store, name)

    def work(name: str) -> None:
        message = CurrentMessage.get_current_message()
        attempts.append(message.attempt)  # type: ignore[union-attr]

    away: Any = Away()
    actor = harness.actor(work, policy=SOON, idempotency=Once(lambda name: name, lambda: away))
    actor.send("a")
    harness.start()
    wait_until(lambda: len(lines.of("attempt")) >= 3)
    assert attempts == []
    is_back.set()
    wait_until(lambda: attempts == [1])
    wait_until(harness.is_empty)


def test_a_job_is_done_even_if_the_store_fails_while_it_runs(
    harness: Harness, store: IdempotencyStore, lines: Lines
) -> None:
    ran: list[str] = []

    class Goes:
        def begin(self, *args: Any) -> Any:
            return store.begin(*args)

        def finish(self, *args: Any) -> bool:
            raise BrokerUnavailable("the state store is away")

        release = renew = finish

    goes: Any = Goes()
    actor = harness.actor(
        lambda name: ran.append(name),
        actor_name="work",
        idempotency=Once(lambda name: name, lambda: goes),
    )
    actor.send("a")
    harness.start()
    wait_until(lambda: lines.of("could not store the result under its idempotency key"))
    wait_until(harness.is_empty)
    assert ran == ["a"]
    assert harness.dead() == []


def test_a_result_that_json_cannot_represent_is_stored_as_null(
    harness: Harness, store: IdempotencyStore, once: Callable[..., Once], lines: Lines
) -> None:
    actor = harness.actor(lambda name: {1, 2}, actor_name="work", idempotency=once())
    actor.send("a")
    harness.start()
    key = claim_key(harness, "work", "a")
    wait_until(lambda: lines.of("result is not JSON and is stored as null"))
    wait_until(harness.is_empty)
    assert store.begin(key, "x", timedelta(seconds=1)) == Finished(b"null")


def test_the_store_contains_only_hashes_of_keys(
    harness: Harness, store: IdempotencyStore, once: Callable[..., Once], lines: Lines
) -> None:
    actor = harness.actor(lambda name: None, actor_name="work", idempotency=once())
    actor.send("jo@example.com")
    harness.start()
    wait_until(harness.is_empty)
    harness.stop()
    if isinstance(harness.broker, RedisBroker):
        keys = harness.broker.client.keys(f"dramatiq{RedisIdempotencyStore.prefix}*")
        assert keys
        assert not [key for key in keys if b"jo@" in key]
    assert "jo@" not in lines.text


def test_a_batch_has_no_key(harness: Harness, once: Callable[..., Once]) -> None:
    with pytest.raises(ConfigError, match="expected many to run one job at a time"):
        harness.actor(
            lambda batch: None,
            actor_name="many",
            batch_size=2,
            batch_wait=timedelta(seconds=1),
            idempotency=once(),
        )


def test_the_lock_is_released_if_a_later_check_defers_the_job(
    harness: Harness, store: IdempotencyStore, once: Callable[..., Once]
) -> None:
    from formrelay.middleware.delivery import Delivery

    ran: list[str] = []
    actor = harness.actor(lambda name: ran.append(name), actor_name="work", idempotency=once())
    put_off: list[bool] = []

    def refuse() -> None:
        if not put_off:
            put_off.append(True)
            raise BrokerUnavailable("no quarantine run now")

    real = Delivery.__init__

    def suspect(self: Delivery, *args: Any) -> None:
        real(self, *args)
        self.count_quarantine_run = refuse

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(Delivery, "__init__", suspect)
    actor.send("a")
    harness.start()
    wait_until(lambda: ran == ["a"])
    monkeypatch.undo()
    assert put_off == [True]
    assert Reason.INVALID not in {letter.failure.reason for letter in harness.dead()}
