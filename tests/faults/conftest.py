"""Fixtures of the tests that kill workers and stop servers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from formrelay.brokers.base import RelayBroker
from tests.support import fault_worker
from tests.support.brokers import BROKERS
from tests.support.command import Program, start_python
from tests.support.waiting import wait_until


class Site:
    """A queue, its worker processes, and the file into which they write each job they did."""

    def __init__(self, url: str, queue: str, file: Path) -> None:
        self.url, self.queue, self.file = url, queue, file
        self.workers: list[Program] = []
        self.broker: RelayBroker = fault_worker.make_broker(url)
        fault_worker.declare(self.broker, queue, str(file))

    def start_worker(self) -> Program:
        log = self.file.with_suffix(f".{len(self.workers)}.log")
        arguments = (fault_worker.__file__, self.url, self.queue, str(self.file))
        process = start_python(*arguments, cwd=self.file.parent, env=os.environ, log=log)
        self.workers.append(process)
        wait_until(lambda: "ready\n" in log.read_text() or process.poll() is not None)
        assert "ready\n" in log.read_text(), log.read_text()
        return process

    def send(self, numbers: range, *, milliseconds: int = 0, delay: int | None = None) -> None:
        note = self.broker.actors["note"]
        for number in numbers:
            note.send_with_options(args=(number, milliseconds), delay=delay)

    def lines(self) -> list[str]:
        return self.file.read_text().split() if self.file.exists() else []

    def wait_for(self, numbers: range, *, timeout: float = 30) -> None:
        """Wait until each of ``numbers`` was done at least once."""
        wanted = {str(number) for number in numbers}
        wait_until(lambda: wanted <= set(self.lines()), timeout=timeout)

    def is_empty(self) -> bool:
        counts = self.broker.counts(self.queue)
        return not (counts.waiting or counts.scheduled or counts.in_flight)

    def close(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.broker.close()


@pytest.fixture(params=BROKERS)
def site(request: pytest.FixtureRequest, unique: str, tmp_path: Path) -> Iterator[Site]:
    site = Site(request.getfixturevalue(request.param), unique, tmp_path / "done")
    yield site
    site.close()
