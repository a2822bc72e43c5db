"""perform, for actors that wait for something without a thread: all of them in the loop's.

Their messages do not go to Dramatiq's worker threads. The loop's thread calls the actor, takes
it up again when there is a result, and does at the end what a worker thread does: hooks, outcome,
settle. Many threads that each do a little for each message would take turns at the interpreter's
lock, which costs more than what they do.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import dramatiq.worker
from dramatiq import MessageProxy
from dramatiq.middleware import CurrentMessage

from ..core.later import Steps
from ..core.loop import Loop, get_loop
from ..core.process import current_pid
from ..middleware.delivery import Delivery, Suspended
from .contract import BrokerContract
from .errors import BrokerUnavailable
from .follow_ups import may_send

if TYPE_CHECKING:
    from dramatiq.worker import WorkerThread
else:  # Dramatiq 1 has it under another name
    WorkerThread = getattr(dramatiq.worker, "WorkerThread", None) or dramatiq.worker._WorkerThread

logger = logging.getLogger("formrelay.brokers")

#: One that has waited for so many seconds holds up no other: it is not counted among those
#: that a consumer has in hand.
_ASIDE_AFTER = 1.0
#: So many times as many as are begun at a time may have waited for that long.
MOST_ASIDE = 10
#: Where the broker does not take what is settled, it is offered again after so many seconds.
_AGAIN = 1.0


def begin(coroutine: Coroutine[Any, None, None]) -> None:
    """Run the coroutine of an actor, and let it go on without this thread if it waits.

    Outside the loop (an actor that is called directly) this waits until it is done.

    Raises:
        BaseException: what it raises before it first waits.
    """
    steps = Steps(coroutine)
    waits_for = steps.advance()
    if waits_for is None:
        return
    delivery = CurrentMessage.get_current_message()
    if isinstance(delivery, Delivery) and delivery.may_wait:
        delivery.suspended = Suspended(steps, waits_for)
        delivery.was_suspended = True
    else:
        steps.finish(waits_for)


class Settles(Protocol):
    """The consumer that a delivery came from."""

    def ack(self, message: MessageProxy) -> None:
        """Settle a message that did not fail for good."""

    def nack(self, message: MessageProxy) -> None:
        """Settle a message that failed for good."""

    def settles_at_once(self, delivery: Delivery) -> bool:
        """Whether settling ``delivery`` waits for no answer of the broker."""


@dataclass(eq=False, slots=True)
class _Attempt:
    """One of them, from when it comes to when it is settled.

    Attributes:
        context: in which all of its steps and hooks run, and nothing of another attempt. One
            thread at a time may be in it, so whatever has another thread go on with the
            attempt does so outside of it.
        is_told: whether the middleware has been told that it is settled.
    """

    delivery: Delivery
    consumer: Settles
    context: Context = field(default_factory=Context)
    since: float = 0.0
    is_aside: bool = False
    is_over: bool = False
    is_told: bool = False


class _Line:
    """Those of one queue.

    Attributes:
        waiting: not begun yet.
        young: begun, in that order, and not aside.
        count: how many are begun.
    """

    def __init__(self) -> None:
        self.waiting: deque[_Attempt] = deque()
        self.young: deque[_Attempt] = deque()
        self.count = 0
        self.aside = 0

    def age(self) -> None:
        """Put aside those that have waited for long, and forget those that are over."""
        old = monotonic() - _ASIDE_AFTER
        while self.young and (self.young[0].is_over or self.young[0].since < old):
            attempt = self.young.popleft()
            if not attempt.is_over:
                attempt.is_aside = True
                self.aside += 1


class Unfinished:
    """See the module. One a broker; starts anew in a forked process."""

    def __init__(self, broker: BrokerContract) -> None:
        self._broker = broker
        self._pid = 0
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._slowly: SimpleQueue[Callable[[], bool]] = SimpleQueue()

    # -- for the consumers' threads ------------------------------------------------------

    def take(self, delivery: Delivery, consumer: Settles) -> None:
        """Have the actor of ``delivery`` called; ``consumer`` settles it in the end."""
        if self._pid != current_pid():
            self._start()
        delivery.may_wait = True
        line = self._line(delivery.queue_name)
        line.waiting.append(_Attempt(delivery, consumer))
        self._loop.call(partial(self._begin_next, line))

    def hold(self, delivery: Delivery, consumer: Settles) -> None:
        """Settle a delivery of a worker thread once what follows it is sent."""
        if self._pid != current_pid():
            self._start()
        attempt = _Attempt(delivery, consumer, copy_context(), is_told=True)
        self._count(attempt)
        assert delivery.carry_on is not None
        self._slowly.put(partial(self._carry_on, attempt, delivery.carry_on))

    def hand_back(self, queue: str) -> list[MessageProxy]:
        """Those that were not begun, and will not be."""
        waiting = self._line(queue).waiting
        with self._lock:  # the loop's thread takes from it as well
            found: list[MessageProxy] = [attempt.delivery for attempt in waiting]
            waiting.clear()
        return found

    def count(self, queue: str) -> int:
        """How many are begun."""
        return self._line(queue).count

    def aside(self, queue: str) -> int:
        """How many of them have waited for so long that they hold up nobody any more."""
        line = self._line(queue)
        with self._lock:
            line.age()
            return line.aside

    def _count(self, attempt: _Attempt) -> None:
        line = self._line(attempt.delivery.queue_name)
        with self._lock:
            attempt.since = monotonic()
            line.count += 1
            line.young.append(attempt)

    def _line(self, queue: str) -> _Line:
        return self._lines.get(queue) or self._lines.setdefault(queue, _Line())

    def _start(self) -> None:
        with self._lock:
            if self._pid == current_pid():
                return
            self._lines, self._slowly = {}, SimpleQueue()
            self._loop: Loop = get_loop()
            self._hand = _Hand(self._broker)
            run = partial(self._do_slowly, self._slowly)
            threading.Thread(target=run, name="formrelay-slowly", daemon=True).start()
            self._pid = current_pid()

    # -- in the loop's thread ------------------------------------------------------------

    def _begin_next(self, line: _Line) -> None:
        with self._lock:
            if not line.waiting:
                return  # handed back
            attempt = line.waiting.popleft()
        self._count(attempt)
        delivery = attempt.delivery
        if delivery.before_trial is None and not may_send(self._broker, delivery):
            self._run(attempt, self._hand.work_on, delivery)
            self._go_on(attempt)
        else:  # it may wait for the broker: a suspect is counted there before anything else
            self._slowly.put(partial(self._run_slowly, attempt, self._work_slowly, delivery))

    def _work_slowly(self, delivery: Delivery) -> None:
        _Hand(self._broker).work_on(delivery)

    def _run(self, attempt: _Attempt, do: Callable[..., object], *args: Any) -> None:
        """Run a part of an attempt that decides, or leaves it without an outcome."""
        try:
            attempt.context.run(do, *args)
        except BaseException as error:  # a hook's SystemExit, say; the actor's is an outcome
            delivery = attempt.delivery
            delivery.suspended = delivery.carry_on = delivery.outcome = None
            delivery.failed = False
            logger.critical(
                "an attempt was cut short",
                extra={"message_id": delivery.message_id},
                exc_info=error,
            )

    def _run_slowly(self, attempt: _Attempt, do: Callable[..., object], *args: Any) -> bool:
        self._run(attempt, do, *args)
        self._loop.call(partial(self._go_on, attempt))
        return True

    def _go_on(self, attempt: _Attempt) -> None:
        """The actor has run, or waits, or has failed."""
        delivery = attempt.delivery
        if delivery.suspended is not None:
            self._wait(attempt, delivery.suspended)
        elif delivery.carry_on is not None:
            self._slowly.put(partial(self._carry_on, attempt, delivery.carry_on))
        else:
            self._settle(attempt)

    def _carry_on(self, attempt: _Attempt, carry_on: Callable[[], bool]) -> bool:
        """Send what follows the attempt; whether that is over."""
        is_over = True

        def try_again() -> None:
            nonlocal is_over
            is_over = carry_on()

        self._run(attempt, try_again)
        if is_over:
            attempt.delivery.carry_on = None
            self._loop.call(partial(self._go_on, attempt))
        return is_over

    def _wait(self, attempt: _Attempt, suspended: Suspended) -> None:
        resume = partial(self._loop.call, partial(self._resume, attempt))
        try:
            attempt.context.run(suspended.waits_for.start, resume)
        except BaseException as error:
            self._end(attempt, error)

    def _resume(self, attempt: _Attempt) -> None:
        suspended = attempt.delivery.suspended
        assert suspended is not None
        try:
            waits_for = attempt.context.run(suspended.steps.advance)
        except BaseException as error:
            self._end(attempt, error)
            return
        if waits_for is None:
            self._end(attempt, None)
        else:
            suspended.waits_for = waits_for
            self._wait(attempt, suspended)

    def _end(self, attempt: _Attempt, error: BaseException | None) -> None:
        if may_send(self._broker, attempt.delivery):
            self._slowly.put(
                partial(self._run_slowly, attempt, self._ended, attempt.delivery, error)
            )
        else:
            self._run(attempt, self._ended, attempt.delivery, error)
            self._go_on(attempt)

    def _ended(self, delivery: Delivery, error: BaseException | None) -> None:
        delivery.suspended = None
        if error is None:
            self._broker.emit_after("process_message", delivery, result=None)
        else:
            delivery.stuff_exception(error)
            self._broker.emit_after("process_message", delivery, exception=error)

    # -- settle --------------------------------------------------------------------------

    def _settle(self, attempt: _Attempt) -> None:
        """At once, or where the broker may have to be waited for by a thread that may wait."""

        def settle() -> bool:
            return attempt.context.run(self._settle_one, attempt)

        if not attempt.consumer.settles_at_once(attempt.delivery) or not settle():
            self._slowly.put(settle)

    def _do_slowly(self, slowly: SimpleQueue[Callable[[], bool]]) -> None:
        """What has to wait for a broker. What it does not take comes again behind the others."""
        refused = 0
        while True:
            do = slowly.get()
            try:
                refused = 0 if do() else refused + 1
            except BaseException as error:
                logger.critical("an attempt was not carried on", exc_info=error)
                continue
            if refused:
                slowly.put(do)
            if refused >= slowly.qsize() > 0:  # all of them
                threading.Event().wait(_AGAIN)
                refused = 0

    def _settle_one(self, attempt: _Attempt) -> bool:
        """Whether it is off our hands."""
        try:
            if not self._is_settled(attempt):
                return False
        except Exception as error:
            # As after a worker thread's: it is delivered again when this process is gone.
            logger.critical(
                "an attempt was not settled",
                extra={"message_id": attempt.delivery.message_id},
                exc_info=error,
            )
        attempt.delivery.clear_exception()
        line = self._line(attempt.delivery.queue_name)
        with self._lock:
            attempt.is_over = True
            line.count -= 1
            line.aside -= attempt.is_aside
            line.age()
        return True

    def _is_settled(self, attempt: _Attempt) -> bool:
        delivery = attempt.delivery
        signal = "nack" if delivery.failed else "ack"
        settle = attempt.consumer.nack if delivery.failed else attempt.consumer.ack
        try:
            if not attempt.is_told:
                self._broker.emit_before(signal, delivery)
            settle(delivery)
            if not attempt.is_told:
                self._broker.emit_after(signal, delivery)
        except BrokerUnavailable as error:
            logger.warning(
                "the broker does not take what is settled",
                extra={"queue": delivery.queue_name, "error_message": str(error)},
            )
            return False
        return True


class _Hand(WorkerThread):
    """A worker thread that is never started: its code is called, in the loop's thread."""

    def __init__(self, broker: BrokerContract) -> None:
        self.broker = broker
        self.logger = logging.getLogger("dramatiq.worker.WorkerThread")
        # Where its code looks for the consumer and for the queue of a message at the end.
        self.consumers: Any = self
        self.work_queue: Any = self
        self._error: BaseException | None = None

    def work_on(self, delivery: Delivery) -> None:
        """Do with a message what a worker thread of Dramatiq's does, but for settling it."""
        self._error = None
        try:
            self.process_message(delivery)
        finally:
            # Its code forgets it at the end; hooks of a settlement look at it.
            error, self._error = self._error, None
            if error is not None:
                delivery.stuff_exception(error)

    def __getitem__(self, _queue: str) -> _Hand:
        return self

    def post_process_message(self, message: MessageProxy) -> None:
        """The actor has run, or waits: whoever called goes on with it."""
        assert isinstance(message, Delivery)
        self._error = message.exception

    def task_done(self) -> None:
        """No queue of Dramatiq's knows of it."""
