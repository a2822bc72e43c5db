"""Counting a worker's queues beside its work."""

from __future__ import annotations

from typing import Any

from formrelay.brokers import QueueCounts
from formrelay.core.broker_errors import BrokerRefused, BrokerUnavailable
from formrelay.middleware.queue_sizes import QueueSizes
from formrelay.state.worker_reports import MAX_SIZES, QueueSize
from tests.support.clock import ManualClock


class Inspector:
    """Counts, or fails as told."""

    error: Exception | None = None
    asked: list[str]

    def counts_of(self, queues: Any) -> list[QueueCounts]:
        if self.error is not None:
            raise self.error
        self.asked = queues
        return [QueueCounts(queue, 3, None, 1, 2) for queue in queues]


def made(clock: ManualClock, number: int = 1) -> tuple[QueueSizes, Inspector]:
    sizes, inspector = QueueSizes(lambda: [f"q{n}" for n in range(number)], clock), Inspector()
    sizes.start(lambda: inspector)
    sizes.stop()
    return sizes, inspector


def test_the_last_sizes_are_kept_until_they_are_old() -> None:
    clock = ManualClock(1_000.0)
    sizes, _ = made(clock)
    assert not sizes.sizes
    sizes.count()
    assert list(sizes.sizes) == [QueueSize("q0", 3, None, 1, 2)]
    clock.now += 31  # a count that hangs
    assert not sizes.sizes


def test_a_broker_without_an_answer_is_a_problem_until_it_answers() -> None:
    sizes, inspector = made(ManualClock(1_000.0))
    sizes.count()
    inspector.error = BrokerUnavailable("expected RabbitMQ to answer, got nothing")
    sizes.count()
    assert not sizes.sizes
    assert sizes.problem == "expected RabbitMQ to answer, got nothing"
    inspector.error = BrokerRefused("no right")
    sizes.count()
    assert (sizes.sizes, sizes.problem) == ((), "")
    inspector.error = None
    sizes.count()
    assert len(sizes.sizes) == 1


def test_few_of_many_queues_are_counted() -> None:
    sizes, inspector = made(ManualClock(1_000.0), 200)
    sizes.count()
    assert len(inspector.asked) == MAX_SIZES
