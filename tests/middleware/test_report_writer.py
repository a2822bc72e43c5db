"""The report of a worker is on time, and tells of processes that were killed."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from formrelay.brokers import BrokerOptions
from formrelay.core.broker_errors import BrokerUnavailable
from formrelay.core.failure import Failure, Reason
from formrelay.core.outcomes import DONE, Retry
from formrelay.core.process import process_key
from formrelay.middleware.history import HistoryRecorder
from formrelay.state.memory_history import MemoryHistory
from formrelay.state.worker_reports import MemoryWorkerReports, WorkerReport
from tests.support.clock import ManualClock


class Reports(MemoryWorkerReports):
    """Reports that are shared with silent workers, and that fail as told."""

    def __init__(self) -> None:
        super().__init__()
        self.silent: list[WorkerReport] = []
        self.ended: list[str] = []
        self.error: Exception | None = None

    def report(self, report: WorkerReport) -> list[WorkerReport]:
        if self.error is not None:
            raise self.error
        super().report(report)
        return self.silent

    def mark_ended(self, report: WorkerReport) -> None:
        self.ended.append(report.name)


class Broker:
    """A broker without messages; stands for its worker too."""

    def __init__(self) -> None:
        self.options = BrokerOptions()
        self.reports = Reports()
        self.actors: dict[str, Any] = {}
        self.broker, self.consumers = self, dict[str, Any]()

    def history(self) -> MemoryHistory:
        raise BrokerUnavailable("the history is down")

    def worker_reports(self) -> Reports:
        return self.reports


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(1_800_000_000.0)


@pytest.fixture
def broker() -> Broker:
    return Broker()


@pytest.fixture
def recorder(clock: ManualClock, broker: Broker) -> Iterator[HistoryRecorder]:
    recorder = HistoryRecorder(clock=clock)
    worker: Any = broker
    recorder.before_worker_boot(worker, worker)
    recorder.reporting.start(worker)
    recorder.reporting._writing.stop()  # the tests write
    recorder.reporting._sizes.stop()
    yield recorder
    recorder.after_worker_shutdown(worker, worker)
    assert broker.reports.read() == []


def test_a_history_that_fails_delays_no_report(
    recorder: HistoryRecorder, broker: Broker, clock: ManualClock
) -> None:
    recorder.count("q", "f", DONE, 0.1)
    failure = Failure(Reason.PERMANENT, "e", "", "", 1, "")
    recorder.count("q", "f", Retry(timedelta(0), failure), 0.1)
    clock.now += 10
    recorder.flush()
    recorder.reporting.write()
    (report,) = broker.reports.read()
    assert (report.rate, report.error_rate) == (0.2, 0.5)


def test_a_store_that_fails_is_logged_once_a_minute_and_tried_at_each_report(
    recorder: HistoryRecorder,
    broker: Broker,
    clock: ManualClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker.reports.error = BrokerUnavailable("down")
    with caplog.at_level(logging.WARNING, "formrelay.workers"):
        for _ in range(13):
            recorder.reporting.write()
            clock.now += 5
    assert len(caplog.records) == 2
    broker.reports.error = None
    recorder.reporting.write()
    assert len(broker.reports.read()) == 1


def test_of_the_silent_workers_those_that_ended_are_noted(
    recorder: HistoryRecorder, broker: Broker
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as ended:
        key = process_key(ended.pid)
    silent = WorkerReport("host:1", "1", age=30.0)
    broker.reports.silent = [
        replace(silent, name="ended", process=key),
        replace(silent, name="hangs", process=process_key()),
        replace(silent, name="elsewhere", process="a/b/1/2"),
        replace(silent, name="of an older version"),
    ]
    recorder.reporting.write()
    assert broker.reports.ended == ["ended"]


def test_each_process_has_an_instance_of_its_own(
    recorder: HistoryRecorder, broker: Broker, clock: ManualClock
) -> None:
    recorder.reporting.write()
    (report,) = broker.reports.read()
    assert report.process == process_key()
    other: Any = HistoryRecorder(clock=clock)
    other.reporting.begin()
    assert len({report.instance, other.reporting._instance, ""}) == 3
