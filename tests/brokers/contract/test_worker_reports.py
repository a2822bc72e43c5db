"""Workers report their version, memory, queues and running jobs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from threading import Event
from typing import Any

import dramatiq
import pytest

from formrelay import __version__
from formrelay.brokers.inspection import NotAvailable
from formrelay.brokers.rabbitmq.broker import RabbitBroker
from formrelay.brokers.rabbitmq.management import Management
from formrelay.core.broker_errors import BrokerUnavailable
from formrelay.core.errors import SinkUnavailable
from formrelay.core.failure import worker_name
from formrelay.core.retry import RetryPolicy, Schedule
from formrelay.core.throttle import Throttle
from formrelay.state.worker_reports import WorkerReport
from formrelay.testing import MemoryBroker
from tests.state.stores import state_of
from tests.support.harness import Harness
from tests.support.waiting import wait_until


@pytest.fixture
def harness(harness: Harness, request: pytest.FixtureRequest) -> Iterator[Harness]:
    if isinstance(harness.broker, RabbitBroker):  # as with STATE_URL
        state = state_of(request.getfixturevalue("redis_url"))
        harness.broker.state = state
        yield harness
        harness.stop()
        state.client.close()
    else:
        yield harness


def report_of(harness: Harness) -> WorkerReport | None:
    """Let the worker report now, and return its report."""
    harness.broker.history_recorder.reporting.write()
    return next(iter(harness.broker.worker_reports().read()), None)


def test_a_worker_reports_when_it_starts_and_no_more_when_it_has_stopped(harness: Harness) -> None:
    harness.actor(lambda: None)
    harness.start()
    (report,) = wait_until(harness.broker.worker_reports().read)
    assert (report.name, report.version) == (worker_name(), __version__)
    assert report.queues == (harness.queue,)
    assert (report.memory_bytes or 0) > 10_000_000
    harness.stop()
    assert harness.broker.worker_reports().read() == []


def test_sinks_that_a_worker_pauses_for_are_reported(harness: Harness) -> None:
    throttle, is_back = Throttle("smtp"), Event()

    def deliver() -> None:
        if not is_back.is_set():
            raise SinkUnavailable

    policy = RetryPolicy(max_attempts=100, backoff=Schedule((timedelta(0),)))
    actor = harness.actor(deliver, throttle=throttle, policy=policy)
    actor.send()
    harness.start()
    wait_until(lambda: throttle.is_failing)
    report = wait_until(lambda: report_of(harness))
    (paused,) = report.paused
    assert (paused.sink, paused.is_failing) == ("smtp", True)
    assert 0 <= paused.seconds <= 30
    is_back.set()
    wait_until(lambda: not throttle.is_failing)
    report = report_of(harness)
    assert report is not None
    assert report.paused == ()
    throttle.pause(timedelta(hours=1))
    report = report_of(harness)
    assert report is not None
    assert [each.is_failing for each in report.paused] == [False]


@pytest.mark.parametrize("kind", ["sync", "async", "batch"])
def test_running_jobs_are_reported_by_actor(harness: Harness, kind: str) -> None:
    begun, finish = Event(), Event()

    def work(batch: Any = None) -> None:
        begun.set()
        finish.wait(20)

    async def work_async() -> None:
        begun.set()
        while not finish.is_set():
            await asyncio.sleep(0.01)

    options: dict[str, Any] = {"queue_name": harness.queue, "broker": harness.broker}
    options |= {"in_flight": 5} if kind == "async" else {}
    options |= {"batch_size": 1, "batch_wait": timedelta(0)} if kind == "batch" else {}
    function = work_async if kind == "async" else work
    actor = dramatiq.actor(function, actor_name=f"{kind}_{harness.queue}", **options)
    actor.send()
    harness.start()
    assert begun.wait(20)
    report = report_of(harness)
    assert report is not None
    (job,) = report.running
    assert (report.running_count, job.actor, job.jobs) == (1, actor.actor_name, 1)
    assert 0 <= job.seconds < 20
    finish.set()
    wait_until(harness.is_empty)
    report = report_of(harness)
    assert report is not None
    assert (report.running_count, report.running) == (0, ())


def test_the_list_of_workers_has_their_reports(harness: Harness) -> None:
    harness.actor(lambda: None)
    harness.start()
    if harness.broker.state is None:
        assert [each.report for each in harness.broker.inspector.workers()] == [None]
        return
    report = wait_until(lambda: report_of(harness))
    # A worker reports before its consumers are registered with the broker.
    (worker,) = wait_until(
        lambda: [each for each in harness.broker.inspector.workers() if each.queues]
    )
    assert (worker.name, worker.queues) == (worker_name(), (harness.queue,))
    assert worker.report is not None
    assert worker.report.version == report.version


def test_queues_and_workers_of_rabbitmq_are_known_by_reports(harness: Harness) -> None:
    broker = harness.broker
    if not isinstance(broker, RabbitBroker):  # Redis lists both, and without reports
        return
    queues = ("theirs", harness.queue, "<script>", "__ours")
    broker.worker_reports().report(WorkerReport("elsewhere:1", "0.9", queues))
    harness.actor(lambda: None)
    inspector = broker.inspector
    assert inspector.other_queues() == {"theirs"}
    (worker,) = inspector.workers()
    assert (worker.name, worker.queues) == ("elsewhere:1", queues)
    with pytest.raises(NotAvailable, match="no worker without RABBITMQ_API_URL"):
        inspector.check_listing()
    # The same if the management API fails.
    broker.management = Management("http://u:secret@127.0.0.1:1/api", virtual_host="/", timeout=5)
    inspector = broker.inspector
    assert inspector.other_queues() == {"theirs"}
    assert [each.name for each in inspector.workers()] == [worker.name]
    with pytest.raises(NotAvailable, match=r"no worker \(expected .*127\.0\.0\.1:1"):
        inspector.check_listing()


def test_workers_are_listed_while_the_store_fails(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.actor(lambda: None)
    harness.start()
    if harness.broker.state is None:
        return

    def fail() -> list[WorkerReport]:
        raise BrokerUnavailable("down")

    monkeypatch.setattr(harness.broker.worker_reports(), "read", fail)
    if isinstance(harness.broker, RabbitBroker):
        with pytest.raises(NotAvailable):
            harness.broker.inspector.workers()
    else:
        workers = wait_until(harness.broker.inspector.workers)
        assert [each.report for each in workers] == [None]


def consumer_of(harness: Harness) -> Any:
    """The consumer of the running worker."""
    (consumer,) = wait_until(lambda: list(harness.broker.consumers))
    return consumer


def test_a_consumer_that_hangs_is_reported(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.actor(lambda: None)
    harness.start()
    consumer = consumer_of(harness)
    hangs, goes_on = Event(), Event()

    def receive(timeout: float) -> None:
        hangs.set()
        goes_on.wait(60)

    monkeypatch.setattr(consumer, "receive", receive)
    assert hangs.wait(60)
    monkeypatch.setattr(consumer, "asked_at", consumer.asked_at - 31)
    report = report_of(harness)
    monkeypatch.undo()
    goes_on.set()
    assert report is not None
    assert report.hangs
    assert not report.problem


def test_the_error_of_a_broker_that_is_away_is_reported(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(harness.broker, MemoryBroker):
        return
    harness.actor(lambda: None)
    harness.start()
    consumer = consumer_of(harness)

    def fail(*arguments: Any, **options: Any) -> Any:
        raise BrokerUnavailable("it is away")

    if isinstance(harness.broker, RabbitBroker):
        monkeypatch.setattr(harness.broker.client, "connect", fail)
        wait_until(lambda: consumer._subscription is not None)
        consumer._subscription.connection._socket.shutdown(2)
    else:
        monkeypatch.setattr(consumer, "_reconcile", fail)
    wait_until(lambda: consumer.problem)
    report = report_of(harness)
    assert report is not None
    assert report.problem == consumer.problem
    assert not report.hangs
    monkeypatch.undo()
    wait_until(lambda: consumer.problem is None)
