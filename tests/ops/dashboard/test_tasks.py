"""Tasks of the dashboard: replay and delete many dead letters, on Redis and RabbitMQ."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dramatiq
import pytest

from formrelay.brokers import BrokerOptions, BrokerUnavailable, DeadFilter, RelayBroker
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.redis.broker import RedisBroker
from formrelay.brokers.redis.inspector import RedisInspector
from formrelay.ops import audit
from formrelay.ops.audit import Operator
from formrelay.ops.dashboard import tasks as module
from formrelay.ops.dashboard.tasks import LOST_AFTER, Selection, Tasks, TooManyTasks, is_lost
from formrelay.state.audit import AuditEntry, MemoryAuditLog
from formrelay.state.task_store import TaskRecord
from tests.support.harness import Harness
from tests.support.waiting import wait_until

ANN = Operator("ann", "dashboard")


def fail(**_: object) -> None:
    raise ValueError


def bury(broker: RelayBroker, queue: str, number: int) -> list[str]:
    """Dead letters of a queue; returns their ids."""
    harness = Harness(broker, queue)
    actor = harness.actor(fail, actor_name=f"fail_{queue}", max_retries=0)
    sent = [actor.send(payload={}).message_id for _ in range(number)]
    harness.start()
    wait_until(lambda: broker.inspector.counts(queue).dead == number)
    harness.stop()
    return sent


@pytest.fixture(
    params=[
        pytest.param("redis", marks=pytest.mark.redis),
        pytest.param("rabbitmq", marks=pytest.mark.rabbitmq),
    ]
)
def broker(request: pytest.FixtureRequest) -> Iterator[RelayBroker]:
    url = request.getfixturevalue(f"{request.param}_url")
    kind: Any = RedisBroker if request.param == "redis" else RabbitBroker
    made = kind(url, options=BrokerOptions())
    yield made
    made.close()


@pytest.fixture
def redis_broker(redis_url: str) -> Iterator[RedisBroker]:
    made = RedisBroker(redis_url, options=BrokerOptions())
    dramatiq.actor(fail, broker=made, queue_name="webhooks")
    yield made
    made.close()


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryAuditLog:
    log = MemoryAuditLog()
    monkeypatch.setattr(audit, "open_log", lambda _broker=None: log)
    return log


@pytest.fixture
def tasks(log: MemoryAuditLog) -> Iterator[Tasks]:
    tasks = Tasks()
    yield tasks
    tasks.stop()
    assert not [each for each in threading.enumerate() if each.name == "formrelay-dashboard-task"]


def ended(tasks: Tasks, broker: RelayBroker, id: str) -> TaskRecord:
    def found() -> TaskRecord | None:
        record = tasks.store(broker).find(id)
        return record if record is not None and record.is_over else None

    record = wait_until(found)
    assert record is not None
    return record


def newest(log: MemoryAuditLog) -> AuditEntry:
    """The entry of an action that has ended; it is written after the end of the task."""
    wait_until(lambda: (found := log.newest().entries) and found[0].outcome != "running")
    return replace(log.newest().entries[0], at=None)


def test_a_task_replays_or_deletes_and_says_what_it_did(
    broker: RelayBroker, tasks: Tasks, log: MemoryAuditLog, unique: str
) -> None:
    ids = bury(broker, unique, 5)
    chosen = Selection(ids={unique: ids[:2]}, expected=2)
    id = tasks.start(broker, "delete", chosen, ANN)
    record = ended(tasks, broker, id)
    assert (record.state, record.done, record.total, record.who) == ("done", 2, 2, "ann")
    assert record.filter == f"queue {unique}: {ids[0]}, {ids[1]}"
    assert broker.inspector.counts(unique).dead == 3
    wait_until(lambda: log.newest().entries)
    assert newest(log) == AuditEntry("ann", "dashboard", "dlq delete", "", record.filter, 2)

    id = tasks.start(broker, "replay", Selection(DeadFilter(unique)), ANN)
    record = ended(tasks, broker, id)
    assert (record.state, record.done, record.total) == ("done", 3, None)
    assert broker.inspector.counts(unique).dead == 0
    wait_until(lambda: broker.inspector.counts(unique).waiting == 3)
    assert tasks.store(broker).newest()[0].id == id


def test_two_tasks_over_the_same_letters_change_each_letter_once(
    broker: RelayBroker, tasks: Tasks, unique: str
) -> None:
    bury(broker, unique, 40)
    started = [
        tasks.start(broker, "replay", Selection(DeadFilter(unique)), Operator(who, "dashboard"))
        for who in ("ann", "bob")
    ]
    found = [ended(tasks, broker, id) for id in started]
    assert [record.state for record in found] == ["done", "done"]
    assert sum(record.done for record in found) == 40
    wait_until(lambda: broker.inspector.counts(unique).waiting == 40)


class Slow:
    """An inspector whose steps wait for the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.steps = threading.Semaphore(0)
        self.error = error
        monkeypatch.setattr(RedisInspector, "replay", staticmethod(self.replay))

    def replay(
        self,
        which: Any,
        *,
        progress: Callable[[int], Any],
        should_stop: Callable[[], bool],
        **_: Any,
    ) -> int:
        count = 0
        while count < 5_000 and not should_stop():
            self.steps.acquire()
            if self.error is not None:
                raise self.error
            count += 500
            progress(count)
        return count


def test_a_second_operator_sees_the_progress_and_stops_the_task(
    redis_broker: RedisBroker, tasks: Tasks, log: MemoryAuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WRITE_EVERY", 0.0)
    slow = Slow(monkeypatch)
    id = tasks.start(redis_broker, "replay", Selection(expected=5_000), ANN)
    slow.steps.release()
    other = Tasks().store(redis_broker)  # that of another process
    record = wait_until(lambda: (found := other.find(id)) and found.done and found)
    assert record is not None
    assert (record.state, record.done, record.total) == ("running", 500, 5_000)
    assert other.request_stop(id, "bob")
    slow.steps.release()
    record = ended(tasks, redis_broker, id)
    assert (record.state, record.done, record.text) == ("stopped", 1_000, "bob")
    assert newest(log).outcome == "stopped by bob"
    assert newest(log).count == 1_000


def test_a_task_that_fails_says_why_and_hides_what_may_be_a_payload(
    redis_broker: RedisBroker, tasks: Tasks, log: MemoryAuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, text in (
        (BrokerUnavailable("no answer"), "no answer"),
        (ValueError("a payload"), "ValueError"),
    ):
        slow = Slow(monkeypatch, error)
        id = tasks.start(redis_broker, "replay", Selection(), ANN)
        slow.steps.release()
        record = ended(tasks, redis_broker, id)
        assert (record.state, record.text) == ("failed", text)
    wait_until(lambda: len(log.newest().entries) == 2)
    assert newest(log).outcome == "failed: ValueError"


def test_two_tasks_run_at_a_time_and_a_bounded_number_waits(
    redis_broker: RedisBroker, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    slow = Slow(monkeypatch)
    ids = [tasks.start(redis_broker, "replay", Selection(), ANN) for _ in range(2)]
    store = tasks.store(redis_broker)
    states = lambda: [each.state for each in store.newest()][::-1]  # noqa: E731
    wait_until(lambda: states() == ["running", "running"])
    ids += [tasks.start(redis_broker, "replay", Selection(), ANN) for _ in range(2)]
    with pytest.raises(TooManyTasks):
        tasks.start(redis_broker, "replay", Selection(), ANN)
    assert states() == ["running", "running", "waiting", "waiting"]
    assert store.request_stop(ids[3], "bob")  # ends at its turn
    for _ in range(30):
        slow.steps.release()
    assert [ended(tasks, redis_broker, id).state for id in ids] == [
        "done",
        "done",
        "done",
        "stopped",
    ]


def test_the_end_of_the_process_stops_tasks_between_two_steps(
    redis_broker: RedisBroker, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    id = tasks.start(redis_broker, "replay", Selection(), ANN)
    wait_until(lambda: tasks.store(redis_broker).find(id).state == "running")  # type: ignore[union-attr]
    stopping = threading.Thread(target=tasks.stop)
    stopping.start()
    wait_until(
        lambda: all(task is None or task.is_closing.is_set() for task in tasks._running.values())
    )
    slow.steps.release(2)
    stopping.join()
    record = ended(tasks, redis_broker, id)
    assert record.state == "stopped"
    assert record.text == "the end of the dashboard's process"


def test_a_task_that_nobody_writes_counts_as_lost() -> None:
    now = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)
    record = TaskRecord("a", "dlq replay", "", "ann", "running", updated_at=now)
    late = (now + timedelta(seconds=LOST_AFTER + 1)).timestamp()
    assert not is_lost(record, now.timestamp())
    assert is_lost(record, late)
    assert is_lost(replace(record, state="waiting"), late)
    assert not is_lost(replace(record, state="done"), late)
