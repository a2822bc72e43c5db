"""Records the outcomes of a worker process in the history of queues, and reports its state.

The consumer counts each message when it settles it; counting does no input or output. Every five
seconds, a thread adds the counts to the shared store. While the store is unavailable, the counts
are kept, and added later to the minute in which they were counted. Another thread writes the worker
report (:mod:`.report_writer`).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from typing import Any, Protocol
from uuid import uuid4

import dramatiq
from dramatiq.middleware import Middleware

from ..core.backoff import BackoffTimer
from ..core.clock import SYSTEM_CLOCK, Clock
from ..core.errors import BrokerError, describe
from ..core.outcomes import Outcome
from ..core.periodic import Periodic
from ..core.process import current_pid
from ..core.retry import Exponential
from ..state.history import History, Tally
from .delivery import DUE, Batch, Delivery
from .outcome_counts import OutcomeCounts, Totals
from .report_writer import ReportWriter

logger = logging.getLogger("formrelay.workers")

INTERVAL = timedelta(seconds=5)
#: The waits between two tries while the store is unavailable.
_BACKOFF = Exponential(base=timedelta(seconds=5), cap=timedelta(minutes=1))
#: Maximum number of minutes whose counts are kept while the store is unavailable. Less than the
#: hour in which the store recognises a call that is repeated (:meth:`.History.add`).
_MAX_MINUTES = 30
_MINUTE = 60.0


class HasStores(Protocol):
    """The methods of a broker that the recorder needs."""

    def history(self) -> History:
        """The history to which the counts are added."""


@dataclass(slots=True)
class _Counted:
    """Counts of about a minute.

    Attributes:
        at: monotonic seconds when they were counted.
        number: number of the call that adds them; None before the first try. From then on they
            must not change, since the store may have them.
    """

    at: float
    tallies: dict[str, Tally]
    number: int | None = None


class HistoryRecorder(Middleware):
    """Counts settled messages, adds the counts to the history, and reports this process.

    Thread-safe. Its threads run while a worker of this process runs.

    Attributes:
        reporting: writes the worker report.
        running: the deliveries whose actor runs, by their ``id()``. Admission adds them, and
            consumers remove them.
    """

    def __init__(self, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._counts = OutcomeCounts(is_actor=self._is_actor)
        self._broker: HasStores | None = None
        self.running: dict[int, Delivery] = {}
        #: The running workers. Without a worker, nothing is counted.
        self._workers: list[dramatiq.Worker] = []
        self._pid = 0
        self.reporting = ReportWriter(lambda: list(self._workers), self.running, clock)
        self._flushing = Periodic("history", INTERVAL, self.flush, at_once=True)
        self._lock = Lock()
        # Protected by the lock:
        self._source, self._number = "", 0
        self._pending: deque[_Counted] = deque()
        self._timer = BackoffTimer(clock)

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        with self._lock:
            if self._pid != current_pid():
                # A forked process must not repeat the numbers of its parent.
                self._pid, self._source, self._number = current_pid(), uuid4().hex, 0
                self._workers.clear()
                self._pending.clear()
                self.running.clear()
                self._counts = OutcomeCounts(is_actor=self._is_actor)
            if not self._workers:
                self.reporting.begin()
            self._workers.append(worker)
            with_stores: Any = broker
            self._broker = with_stores

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        self._flushing.start()
        self.reporting.start(broker)

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        with self._lock:
            self._workers = [each for each in self._workers if each is not worker]
            is_last = not self._workers
            if is_last:
                self._timer.reset()  # try once more
        if is_last:
            self.reporting.stop()
            self._flushing.stop()
            self.flush()

    # -- count ---------------------------------------------------------------------

    def count(self, queue: str, actor: str, outcome: Outcome, took: float | None) -> None:
        """Count a settled message.

        Args:
            actor: its name as the message has it; empty for bytes that cannot be decoded.
            took: seconds from the call of the actor; None if it was not called.
        """
        if self._workers:
            self._counts.add(queue, actor, outcome, took)

    def count_batch(self, batch: Batch, outcome: Outcome) -> None:
        """Count the parts of a settled batch, each with the duration of the batch.

        Args:
            outcome: of all parts; ``part_outcomes`` take precedence.
        """
        if not self._workers:
            return
        queue, actor, number = batch.queue_name, batch.actor_name, len(batch.parts)
        if batch.part_outcomes is None:
            self._counts.add_many(queue, actor, outcome, batch.took, number)
        else:
            for part_outcome in batch.part_outcomes:
                self._counts.add(queue, actor, part_outcome, batch.took)
        if batch.took is not None:
            self._counts.add_batch(queue, actor, number)

    def count_start(self, delivery: Delivery) -> None:
        """Count how late an attempt of a delayed message starts.

        A message that was redelivered is left out: it started before.
        """
        messages = [delivery]
        if isinstance(delivery, Batch) and not delivery.was_stored:
            messages = [part for part in delivery.parts if part.options]
        for each in messages:
            due = each.options.get(DUE)
            if due is not None and not each.is_redelivered and self._workers:
                late = self._clock.time() - due / 1000
                self._counts.add_lateness(each.queue_name, max(0.0, late))

    def totals(self, queues: Collection[str] = ()) -> Totals:
        """Return all counts of this process, by kind (see :meth:`.OutcomeCounts.totals`).

        Args:
            queues: queues whose actors are counted as zero before their first message.
        """
        actors = [(each.queue_name, each.actor_name) for each in self._actors()]
        return self._counts.totals(key for key in actors if key[0] in queues)

    def _actors(self) -> list[Any]:
        broker: Any = self._broker
        return [] if broker is None else list(broker.actors.values())

    def _is_actor(self, name: str) -> bool:
        broker: Any = self._broker
        return broker is not None and name in broker.actors

    # -- flush ---------------------------------------------------------------------

    def flush(self) -> None:
        """Add the counts since the last call to the history.

        Does nothing during the back-off after an error of the store.
        """
        with self._lock:
            tallies = self._counts.collect()
            self.reporting.count(tallies.values())
            self._keep(tallies)
            if self._broker is None or self._timer.remaining:
                return
            try:
                self._send(self._broker.history())
            except BrokerError as error:
                wait = self._timer.fail(_BACKOFF)
                about = {"error_message": describe(error), "retry_in_s": wait.total_seconds()}
                logger.warning("cannot add to the history of queues, retrying", extra=about)
            else:
                self._timer.reset()

    def _keep(self, tallies: dict[str, Tally]) -> None:
        if not tallies:
            return
        now = self._clock.monotonic()
        last = self._pending[-1] if self._pending else None
        if last is None or last.number is not None or now - last.at >= _MINUTE:
            self._pending.append(_Counted(now, tallies))
        else:
            for queue, tally in tallies.items():
                last.tallies.setdefault(queue, Tally()).add(tally)
        while len(self._pending) > _MAX_MINUTES:
            self._pending.popleft()

    def _send(self, history: History) -> None:
        while self._pending:
            counted = self._pending[0]
            if counted.number is None:
                self._number += 1
                counted.number = self._number
            age = timedelta(seconds=max(0.0, self._clock.monotonic() - counted.at))
            history.add(counted.tallies, age=age, source=self._source, number=counted.number)
            self._pending.popleft()
