"""perform, the other half: the attempts whose actors wait for something without a thread.

An ``async`` actor is called by one of Dramatiq's worker threads, which goes on to the next
message as soon as the actor waits. Here one thread of our own takes each up again when there
is a result, and does with it at the end what a worker thread does: hooks, outcome, settle.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any

from dramatiq.middleware import CurrentMessage

from ..core.later import Steps
from ..middleware.delivery import Delivery, Suspended
from .errors import BrokerUnavailable

if TYPE_CHECKING:
    from .base import RelayBroker
    from .consumer import RelayConsumer

logger = logging.getLogger("formrelay.brokers")

#: One that has waited for so many seconds holds up no other: it is not counted among those
#: that a consumer has in hand.
_ASIDE_AFTER = 1.0
#: So many times as many as are begun at a time may have waited for that long.
MOST_ASIDE = 10
#: Where the broker does not take what is settled, it is offered again after so many seconds.
_AGAIN = 1.0


def begin(coroutine: Coroutine[Any, None, None]) -> None:
    """Run the coroutine of an actor, and let it go on without this worker thread if it waits.

    Outside a worker (an actor that is called directly) this waits until it is done.

    Raises:
        BaseException: what it raises before it first waits.
    """
    steps = Steps(coroutine)
    waits_for = steps.advance()
    if waits_for is None:
        return
    delivery = CurrentMessage.get_current_message()
    if not isinstance(delivery, Delivery):
        steps.finish(waits_for)
        return
    delivery.suspended = Suspended(steps, waits_for, monotonic())
    delivery.was_suspended = True


@dataclass(eq=False, slots=True)
class _Attempt:
    """One of them."""

    delivery: Delivery
    consumer: RelayConsumer
    since: float
    is_aside: bool = False
    is_over: bool = False


class _Line:
    """Those of one queue. ``young``: in the order in which they began, and not aside."""

    def __init__(self) -> None:
        self.young: deque[_Attempt] = deque()
        self.count = 0
        self.aside = 0


class Unfinished:
    """See the module. One a broker; made anew in a forked process."""

    def __init__(self, broker: RelayBroker) -> None:
        self._broker = broker
        self._pid = 0
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._ready: SimpleQueue[_Attempt] = SimpleQueue()

    def add(self, delivery: Delivery, consumer: RelayConsumer) -> None:
        """Start what the actor of ``delivery`` waits for; ``consumer`` settles it in the end."""
        suspended = delivery.suspended
        assert suspended is not None
        attempt = _Attempt(delivery, consumer, suspended.since)
        with self._lock:
            if self._pid != os.getpid():
                self._begin()
            line = self._lines.setdefault(delivery.queue_name, _Line())
            line.count += 1
            line.young.append(attempt)
        suspended.waits_for.start(partial(self._ready.put, attempt))

    def count(self, queue: str) -> int:
        """How many of a queue there are."""
        line = self._lines.get(queue)
        return line.count if line is not None else 0

    def aside(self, queue: str) -> int:
        """How many of them have waited for so long that they hold up nobody any more."""
        line = self._lines.get(queue)
        if line is None:
            return 0
        old = monotonic() - _ASIDE_AFTER
        with self._lock:
            while line.young and (line.young[0].is_over or line.young[0].since < old):
                attempt = line.young.popleft()
                if not attempt.is_over:
                    attempt.is_aside = True
                    line.aside += 1
            return line.aside

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lines, self._ready = {}, SimpleQueue()
        run = partial(self._run, self._ready)
        threading.Thread(target=run, name="formrelay-unfinished", daemon=True).start()

    def _run(self, ready: SimpleQueue[_Attempt]) -> None:
        while True:
            attempt = ready.get()
            try:
                self._resume(attempt)
            except BaseException as error:
                # As after a worker thread's: it is delivered again when this process is gone.
                logger.critical(
                    "an attempt was not settled",
                    extra={"message_id": attempt.delivery.message_id},
                    exc_info=error,
                )
                self._over(attempt)

    def _resume(self, attempt: _Attempt) -> None:
        delivery = attempt.delivery
        suspended = delivery.suspended
        assert suspended is not None
        error: BaseException | None = None
        try:
            waits_for = suspended.steps.advance()
            if waits_for is not None:
                waits_for.start(partial(self._ready.put, attempt))
                return
        except BaseException as raised:
            error = raised
            delivery.stuff_exception(raised)
        delivery.suspended = None
        if error is None:
            self._broker.emit_after("process_message", delivery, result=None)
        else:
            self._broker.emit_after("process_message", delivery, exception=error)
        self._settle(attempt)
        delivery.clear_exception()
        self._over(attempt)

    def _settle(self, attempt: _Attempt) -> None:
        delivery = attempt.delivery
        signal = "nack" if delivery.failed else "ack"
        settle = attempt.consumer.nack if delivery.failed else attempt.consumer.ack
        while True:
            try:
                self._broker.emit_before(signal, delivery)
                settle(delivery)
                self._broker.emit_after(signal, delivery)
                return
            except BrokerUnavailable as error:
                logger.warning(
                    "the broker does not take what is settled",
                    extra={"queue": delivery.queue_name, "error_message": str(error)},
                )
                threading.Event().wait(_AGAIN)

    def _over(self, attempt: _Attempt) -> None:
        line = self._lines[attempt.delivery.queue_name]
        with self._lock:
            attempt.is_over = True
            line.count -= 1
            line.aside -= attempt.is_aside
            while line.young and line.young[0].is_over:
                line.young.popleft()
