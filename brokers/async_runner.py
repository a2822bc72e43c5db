"""Runs the attempts of ``async`` actors, hundreds at a time, in one asyncio event loop.

Messages of async actors do not go to Dramatiq's worker threads. Each attempt is one asyncio task
with its own :mod:`contextvars` context. It calls the hooks and the actor and settles the message,
in the same order as a worker thread. Steps that may wait for the broker run in other threads, so
that they do not block the event loop. Whole attempts run in other threads if a package needs that
(:mod:`.attempt_threads`).
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from inspect import isawaitable
from time import monotonic
from typing import Any, TypeVar

from dramatiq import MessageProxy
from dramatiq.middleware import (
    Middleware,
    Shutdown,
    ShutdownNotifications,
    SkipMessage,
    TimeLimit,
    TimeLimitExceeded,
)

from ..core.process import current_pid
from ..middleware.delivery import Delivery
from .async_attempts import AsyncAttempt, AttemptQueue, SettlingConsumer
from .attempt_threads import MAX_THREADS, AttemptThreads
from .contract import BrokerContract
from .errors import BrokerUnavailable
from .event_loop import AsyncFunction, EventLoopThread, coroutine_function
from .follow_ups import may_send
from .loop_lag import LoopLag
from .loop_turns import LoopTurns

T = TypeVar("T")

logger = logging.getLogger("formrelay.brokers")

#: Seconds between two checks of the running attempts: time limits, shutdown, long attempts.
_SWEEP_SECONDS = 0.25
#: Seconds between two tries to send a follow-up message or a settlement to the broker.
_RETRY_SECONDS = 1.0


class AsyncRunner:
    """Runs the attempts of ``async`` actors of one broker. A forked process starts with none."""

    def __init__(self, broker: BrokerContract) -> None:
        self._broker = broker
        self._thread = EventLoopThread()
        self._attempt_threads = AttemptThreads(broker)
        self._reset()

    def _reset(self) -> None:
        self._pid = current_pid()
        self._is_woken = self._is_stopping = False
        self._queues: dict[str, AttemptQueue] = {}
        self._running: set[AsyncAttempt] = set()
        self._turns, self._lag = LoopTurns(), LoopLag()
        self._is_sweeping = False
        #: The thread for steps that may wait for the broker. Only one, because several threads
        #: would compete for the GIL.
        self._settling = ThreadPoolExecutor(1, thread_name_prefix="formrelay-settling")
        #: The thread that begins the attempts of suspects. The first one of a process waits two
        #: seconds for its quarantine queue on RabbitMQ; settlements must not wait with it.
        self._quarantine = ThreadPoolExecutor(1, thread_name_prefix="formrelay-quarantine")
        #: The threads of attempts that cannot run in the event loop.
        self._attempts = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="formrelay-attempt")

    # -- called from any thread ----------------------------------------------------------

    def submit(self, delivery: Delivery, consumer: SettlingConsumer) -> None:
        """Start an attempt when its queue has room; ``consumer`` settles ``delivery`` after it."""
        delivery.is_async = True
        queue = self._queue(delivery.queue_name)
        queue.waiting.append(AsyncAttempt(delivery, consumer, Context()))
        self._wake()

    def settle_later(self, delivery: Delivery, consumer: SettlingConsumer) -> None:
        """Settle a delivery from a worker thread after its follow-up messages are sent."""
        queue = self._queue(delivery.queue_name)
        queue.performed.append(AsyncAttempt(delivery, consumer, copy_context(), is_performed=True))
        self._wake()

    def take_back(self, queue_name: str) -> list[MessageProxy]:
        """Remove and return the messages whose attempts have not started or wait for a thread."""
        found: list[MessageProxy] = []
        waiting = self._queue(queue_name).waiting
        with suppress(IndexError):  # the event loop may empty the deque at the same time
            while True:
                found.append(waiting.popleft().delivery)
        running = [each for each in self._running.copy() if each.delivery.queue_name == queue_name]
        return found + [each.delivery for each in running if each.take_back()]

    def running(self, queue_name: str | None = None) -> int:
        """Number of attempts of a queue that are started or performed, and not yet settled.

        Args:
            queue_name: None for the attempts of all queues.
        """
        queues = list(self._queues.values()) if queue_name is None else [self._queue(queue_name)]
        return sum([len(queue.performed) + queue.running for queue in queues])

    def long(self, queue_name: str) -> int:
        """Number of running attempts that no longer count against the concurrency limit."""
        return self._queue(queue_name).long

    def set_limit(self, queue_name: str) -> None:
        """Set the limit of a queue in use, because another actor of it was declared."""
        if queue_name in self._queues:
            queue = self._queues[queue_name]
            queue.limit = self._broker.in_flight_limit(queue_name) or 0
            queue.total = self._broker.in_flight_total(queue_name)

    def interrupt(self, queue_name: str) -> None:
        """Cancel the running actors of a stopping worker at the next sweep; defer their jobs."""
        self._queue(queue_name).is_ending = True

    def stop(self) -> None:
        """Cancel the running attempts and stop the threads."""
        self._is_stopping = True
        self._thread.stop()
        for executor in (self._settling, self._quarantine, self._attempts):
            executor.shutdown(wait=False, cancel_futures=True)
        self._reset()

    def wrap(self, function: Callable[..., Any]) -> AsyncFunction:
        """Wrap a coroutine function of an actor so that every thread can call it."""
        return AsyncFunction(coroutine_function(function) or function, self._thread)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop for a thread, which waits until it has ended.

        An exception that is raised in the thread meanwhile cancels the coroutine.
        """
        return self._thread.run(coroutine)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, whose thread is started if necessary."""
        return self._thread.loop

    def _queue(self, name: str) -> AttemptQueue:
        if self._pid != current_pid():
            self._reset()
        queue = self._queues.get(name)
        if queue is None:
            limit = self._broker.in_flight_limit(name) or 0
            total = self._broker.in_flight_total(name)
            queue = self._queues.setdefault(name, AttemptQueue(limit, total))
        return queue

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._thread.call(self._begin)

    # -- in the event loop ---------------------------------------------------------------

    def _begin(self) -> None:
        self._is_woken = False
        for queue in list(self._queues.values()):
            self._begin_some(queue)

    def _begin_some(self, queue: AttemptQueue) -> None:
        loop = asyncio.get_running_loop()
        while attempt := queue.take(is_stopping=self._broker.is_stopping):
            self._running.add(attempt)
            self._lag.actors.add(attempt.delivery.actor_name)
            run = self._run(attempt, queue)
            attempt.task = loop.create_task(run, context=attempt.context)
            if not self._is_sweeping:
                self._sweep_later()

    def _sweep_later(self) -> None:
        self._is_sweeping = True
        self._lag.expect(_SWEEP_SECONDS, [each.delivery.actor_name for each in self._running])
        asyncio.get_running_loop().call_later(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        """Cancel attempts that must end, recount the long attempts, and start more attempts."""
        now = monotonic()
        self._lag.check()
        for attempt in self._running:
            if attempt.is_waiting and attempt.interrupt is None:
                try:
                    attempt.interrupt = self._interrupt(attempt, now)
                except Exception as error:
                    attempt.is_waiting = False
                    self._say(attempt, "an attempt has no time limit: its options are wrong", error)
                if attempt.interrupt is not None and attempt.task is not None:
                    attempt.task.cancel()
            elif attempt.thread is not None and attempt.interrupt is None:
                self._interrupt_thread(attempt)
        for queue in list(self._queues.values()):
            queue.age()
        self._is_sweeping = False
        if self._running:
            self._sweep_later()
        self._begin()

    def _interrupt(self, attempt: AsyncAttempt, now: float) -> type[BaseException] | None:
        """Whether to cancel an actor, by the rules of Dramatiq's TimeLimit and shutdown.

        Returns:
            The exception that the attempt fails with, ``Shutdown`` or ``TimeLimitExceeded``; None
            if it goes on.
        """
        delivery, broker = attempt.delivery, self._broker
        actor = broker.get_actor(delivery.actor_name)
        if broker.is_stopping:
            notifications = _find(broker, ShutdownNotifications)
            is_notified = notifications and notifications.should_notify(actor, delivery)
            if is_notified or self._queues[delivery.queue_name].is_ending:
                return Shutdown
        limits = _find(broker, TimeLimit)
        if limits is not None:
            limit = delivery.options.get("time_limit") or actor.options.get(
                "time_limit", limits.time_limit
            )
            if attempt.began + limit / 1000 <= now:
                return TimeLimitExceeded
        return None

    def _interrupt_thread(self, attempt: AsyncAttempt) -> None:
        """Interrupt an attempt in a thread when the time for a stop is over."""
        if self._broker.is_stopping and self._queues[attempt.delivery.queue_name].is_ending:
            attempt.interrupt = Shutdown
            self._attempt_threads.interrupt(attempt, Shutdown)

    async def _run(self, attempt: AsyncAttempt, queue: AttemptQueue) -> None:
        delivery = attempt.delivery
        try:
            if not attempt.is_performed:
                await self._perform(attempt)
            if attempt.is_taken_back:
                self._end(attempt, queue)
                return
            while delivery.carry_on and not await self._in_thread(attempt, delivery.carry_on):
                await self._pause()
        except BaseException as error:  # raised by a hook, such as SystemExit
            if self._is_cancellation_of_stop(error):
                raise
            delivery.outcome, delivery.failed = None, False
            self._say(attempt, "a hook ended an attempt", error)
        delivery.carry_on = None
        try:
            if not (attempt.consumer.settles_at_once(delivery) and self._settle(attempt)):
                while not await self._in_thread(attempt, partial(self._settle, attempt)):
                    await self._pause()
        except BaseException as error:
            # The broker delivers the message again after this process has ended.
            self._say(attempt, "an attempt was not settled", error)
        self._end(attempt, queue)

    def _end(self, attempt: AsyncAttempt, queue: AttemptQueue) -> None:
        attempt.delivery.clear_exception()
        self._running.discard(attempt)
        queue.end(attempt)
        self._begin_some(queue)
        self._turns.give_if_busy()

    async def _perform(self, attempt: AsyncAttempt) -> None:
        """Call the hooks and the actor in the order of Dramatiq's worker thread."""
        broker, delivery = self._broker, attempt.delivery
        if self._attempt_threads.are_needed(broker.get_actor(delivery.actor_name)):
            await self._perform_in_thread(attempt)
            return
        ended: dict[str, Any]
        try:
            if delivery.count_quarantine_run is None:
                broker.emit_before("process_message", delivery)
            else:  # a suspect: a hook counts the run on the broker, and waits for it
                begin = partial(broker.emit_before, "process_message", delivery)
                await self._in_thread(attempt, begin, self._quarantine)
            result = None
            if not delivery.failed:
                result = broker.get_actor(delivery.actor_name)(*delivery.args, **delivery.kwargs)
                if isawaitable(result):
                    result = await self._await(attempt, result)
            ended = {"result": result}
        except SkipMessage as error:
            if delivery.failed:
                delivery.stuff_exception(error)
            broker.emit_after("skip_message", delivery)
            return
        except BaseException as error:
            delivery.stuff_exception(error)
            ended = {"exception": error}
        try:
            await self._emit_ended(attempt, ended)
        finally:
            # The traceback of the exception leads to this frame: a cycle that would keep the
            # message in memory until the garbage collector runs.
            ended.clear()

    async def _emit_ended(self, attempt: AsyncAttempt, ended: dict[str, Any]) -> None:
        emit = partial(self._broker.emit_after, "process_message", attempt.delivery, **ended)
        if may_send(self._broker, attempt.delivery):
            await self._in_thread(attempt, emit)
        else:
            emit()

    async def _perform_in_thread(self, attempt: AsyncAttempt) -> None:
        # So that the hooks of Dramatiq's middleware for threads are called.
        attempt.delivery.is_async = False
        # A copy, since the task may have to enter its own context meanwhile. The remaining hooks
        # run in the copy too: it has the variables that the first hooks set.
        context = attempt.context.copy()
        start = self._attempts.submit(context.run, self._attempt_threads.process, attempt)
        attempt.start = start
        try:
            await self._finish(asyncio.wrap_future(start))
        except asyncio.CancelledError:
            if not attempt.is_taken_back:
                raise
        attempt.context = context

    async def _await(self, attempt: AsyncAttempt, result: Awaitable[Any]) -> Any:
        attempt.is_waiting = True
        try:
            return await result
        except asyncio.CancelledError as error:
            interrupt = Shutdown if self._is_stopping else attempt.interrupt
            if interrupt is None:
                raise
            # Of the actor's await, not of this line.
            raise interrupt().with_traceback(error.__traceback__) from error
        finally:
            attempt.is_waiting = False

    async def _in_thread(
        self,
        attempt: AsyncAttempt,
        do: Callable[[], Any],
        executor: ThreadPoolExecutor | None = None,
    ) -> Any:
        """Call ``do``, which may block, in another thread and in the context of the attempt.

        Args:
            executor: the thread; None: the settling thread.
        """
        loop = asyncio.get_running_loop()  # it may be stopping already
        is_left = threading.Event()
        # A context cannot be entered twice: the thread waits until the task has left it.
        loop.call_soon(is_left.set)

        def call() -> Any:
            is_left.wait()
            return attempt.context.run(do)

        return await self._finish(loop.run_in_executor(executor or self._settling, call))

    async def _pause(self) -> None:
        """Wait until the next try to reach the broker."""
        await self._finish(asyncio.ensure_future(asyncio.sleep(_RETRY_SECONDS)))

    async def _finish(self, step: asyncio.Future[Any]) -> Any:
        """Await a step of the runner, which only the end of the event loop cancels.

        The actor, or a task or timer that it left behind, may cancel the task of the attempt after
        the actor has ended. That must not prevent the settlement.
        """
        while not step.done():
            try:
                await asyncio.wait([step])
            except asyncio.CancelledError as error:
                if self._is_cancellation_of_stop(error):
                    raise
        return step.result()

    def _is_cancellation_of_stop(self, error: BaseException) -> bool:
        return self._is_stopping and isinstance(error, asyncio.CancelledError)

    def _settle(self, attempt: AsyncAttempt) -> bool:
        """Settle the delivery of an attempt; returns False if the broker is unavailable."""
        delivery, consumer = attempt.delivery, attempt.consumer
        is_told = attempt.is_performed  # the worker thread has emitted the signals
        signal, settle = ("nack", consumer.nack) if delivery.failed else ("ack", consumer.ack)
        try:
            if not is_told:
                self._broker.emit_before(signal, delivery)
            settle(delivery)
            if not is_told:
                self._broker.emit_after(signal, delivery)
        except BrokerUnavailable as error:
            logger.warning(
                "broker unavailable: cannot settle a message, retrying",
                extra={"queue": delivery.queue_name, "error_message": str(error)},
            )
            return False
        return True

    def _say(self, attempt: AsyncAttempt, text: str, error: BaseException) -> None:
        extra = {"message_id": attempt.delivery.message_id}
        logger.critical(text, extra=extra, exc_info=error)


def _find(broker: BrokerContract, kind: type[Middleware]) -> Any:
    return next((one for one in broker.middleware if isinstance(one, kind)), None)
