"""The sizes of queues are read in the background, and are not shown when they are too old."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest

from formrelay.brokers import NotAvailable, QueueCounts
from formrelay.brokers.errors import BrokerRefused, BrokerUnavailable
from formrelay.ops.metrics import queues as queues_module
from formrelay.ops.metrics.queues import MAX_AGE, QueueFigures, QueueReader
from tests.support.waiting import wait_until


class Broker:
    """A broker that can be down, and its inspector."""

    queues = frozenset({"b", "a"})
    is_down = False
    readings = 0
    refused: frozenset[str] = frozenset()

    @property
    def inspector(self) -> Broker:
        self.readings += 1
        if self.is_down:
            raise BrokerUnavailable("expected an answer, got none")
        return self

    def counts_of(self, queues: list[str]) -> list[QueueCounts]:
        if self.refused & set(queues):
            raise BrokerRefused("no permission")
        return [QueueCounts(queue, 1, None, None, 0) for queue in queues]

    def due_counts(self, queues: list[str], *, within: timedelta) -> Any:
        raise NotAvailable("counting due messages")

    def scheduled_in_all(self) -> int:
        return 7


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def reader(broker: Broker) -> QueueReader:
    return QueueReader(lambda: broker)


def age(reader: QueueReader, seconds: float) -> None:
    """Let time pass since the last reading."""
    reader._read_at -= seconds
    reader._started_at -= seconds


def test_figures_are_those_of_the_last_reading(reader: QueueReader) -> None:
    assert reader.figures() == QueueFigures()  # the first reading is not over
    found = reader.read()
    assert (found.is_up, found.due, found.scheduled_in_all) == (True, None, 7)
    assert [each.queue for each in found.counts] == ["a", "b"]
    assert reader.figures() == found


def test_a_broker_that_is_down_is_told_when_the_last_figures_are_too_old(
    reader: QueueReader, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    known = reader.read()
    broker.is_down = True
    age(reader, MAX_AGE / 2)
    assert reader.read() == known  # one error, such as a restart, is no outage
    age(reader, MAX_AGE)
    assert reader.read() == QueueFigures(False, problem="expected an answer, got none")
    assert len(caplog.records) == 1  # once an outage
    broker.is_down = False
    assert reader.read() == known


def test_queues_that_the_user_may_not_read_are_left_out(
    reader: QueueReader, broker: Broker
) -> None:
    broker.refused = frozenset({"a"})
    found = reader.read()
    assert (found.is_up, [each.queue for each in found.counts]) == (True, ["b"])
    broker.refused = broker.queues
    age(reader, MAX_AGE + 1)
    assert reader.read() == QueueFigures(False, problem="no permission")


def test_a_broker_that_does_not_answer_is_down(reader: QueueReader) -> None:
    age(reader, MAX_AGE + 1)
    assert reader.figures() == QueueFigures(False, problem="the broker does not answer")


def test_the_broker_is_asked_only_while_somebody_asks(
    reader: QueueReader, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader.start()
    wait_until(lambda: broker.readings == 1)
    reader.stop()
    reader._asked_at = time.monotonic() - queues_module._ASKED - 1
    reader._read_if_asked()
    assert broker.readings == 1
    age(reader, 1_000)
    reader._read_if_asked()
    reader.figures()
    reader._read_if_asked()
    assert broker.readings == 2
