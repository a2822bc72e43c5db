"""An asyncio event loop in its own thread, for ``async`` actors; uvloop if it is installed."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Coroutine
from functools import update_wrapper
from inspect import iscoroutinefunction
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeVar

from dramatiq.asyncio import async_to_sync
from dramatiq.middleware import Shutdown
from dramatiq.threading import Interrupt

from ..core.process import current_pid

T = TypeVar("T")

logger = logging.getLogger("formrelay.brokers")

#: Maximum number of seconds that :meth:`EventLoopThread.stop` waits for cancelled tasks.
_STOP_SECONDS = 5.0
#: Seconds after which a waiting thread raises what another thread has raised in it.
_CHECK_SECONDS = 0.2


class EventLoopThread:
    """Runs an event loop in a thread, which starts at first use.

    A use in a forked process or after :meth:`stop` starts a new thread and event loop.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = 0
        self._thread: _Thread | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop, whose thread is started if necessary."""
        return self._running().loop

    def is_current(self) -> bool:
        """Whether the caller runs in the event loop's thread."""
        return self._thread is not None and self._thread.ident == threading.get_ident()

    def call(self, function: Callable[[], object]) -> None:
        """Schedule a call of ``function`` in the event loop, and return at once."""
        self.loop.call_soon_threadsafe(function)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop; block this thread until it has ended.

        An exception that is raised in this thread meanwhile (by Dramatiq for a time limit or a
        shutdown, by dramatiq-abort for an abort) cancels the coroutine. This method raises the
        exception when the coroutine has ended.

        Raises:
            Shutdown: the event loop was stopped, which cancelled the coroutine.
        """
        thread = self._running()
        run = _Run(coroutine)
        try:
            thread.loop.call_soon_threadsafe(run.begin)
            thread.wait_for(run.ended)
        except BaseException as error:
            thread.end(run)
            # The places of the actor's await, not of the wait in this thread.
            error.with_traceback(run.places() or error.__traceback__)
            raise
        try:
            return run.result()
        except asyncio.CancelledError as error:
            if thread.is_stopping:
                raise Shutdown from error
            raise

    def stop(self) -> None:
        """Cancel all tasks and stop the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and self._pid == current_pid():
            thread.stop()

    def _running(self) -> _Thread:
        thread = self._thread
        if thread is None or self._pid != current_pid():
            thread = self._start()
        return thread

    def _start(self) -> _Thread:
        with self._lock:
            if self._thread is None or self._pid != current_pid():
                self._pid = current_pid()
                self._thread = _Thread()
                self._thread.start()
            return self._thread


class AsyncFunction:
    """A coroutine function that every thread can call.

    In the event loop's thread a call returns the coroutine; in any other thread it waits for the
    result.
    """

    def __init__(self, function: Callable[..., Any], thread: EventLoopThread) -> None:
        self.__wrapped__: Callable[..., Any] = function
        update_wrapper(self, function)
        self._thread = thread

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        coroutine = self.__wrapped__(*args, **kwargs)
        return coroutine if self._thread.is_current() else self._thread.run(coroutine)


def coroutine_function(function: Any) -> Callable[..., Any] | None:
    """The coroutine function of an actor; None if its function is another or wrapped."""
    # Dramatiq wraps it when the actor is made, and we do when the actor is declared.
    if isinstance(function, AsyncFunction) or getattr(function, "__code__", None) is _WRAPPER:
        function = function.__wrapped__
    return function if iscoroutinefunction(function) else None


class _Run(Generic[T]):
    """One run of a coroutine, for which another thread waits.

    Its future would not do: an interrupt may come before the thread has the future.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self.ended = threading.Event()
        self._coroutine = coroutine
        self._task: asyncio.Task[T] | None = None
        self._exit: BaseException | None = None

    def begin(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep_exits())
        self._task.add_done_callback(lambda _: self.ended.set())

    async def _keep_exits(self) -> T:
        """Keep what a task must not raise, because asyncio would raise it in the loop's thread."""
        try:
            return await self._coroutine
        except (SystemExit, KeyboardInterrupt) as error:
            self._exit = error
            raise asyncio.CancelledError from None  # which result() does not raise

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        else:  # interrupted before begin() was scheduled
            self._coroutine.close()
            self.ended.set()

    def places(self) -> TracebackType | None:
        """Where the coroutine was when it was cancelled; None if it ended in another way."""
        if self._task is None or not self._task.cancelled():
            return None
        try:
            self.result()
        except asyncio.CancelledError as error:
            return error.__traceback__
        except BaseException:  # SystemExit or KeyboardInterrupt, which the interrupt overrides
            return None
        return None

    def result(self) -> T:
        # Without a reference here: the traceback of an error would keep the task, which keeps it.
        task, self._task = self._task, None
        exit, self._exit = self._exit, None
        assert task is not None
        try:
            if exit is not None:
                raise exit
            return task.result()
        finally:
            del task, exit


class _Thread(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="formrelay-loop", daemon=True)
        self.loop = _new_loop()
        self.is_stopping = False
        self._stops_by = math.inf

    def wait_for(self, event: threading.Event) -> None:
        """Wait for an event of the loop, and not for ever if the loop is stopped.

        Raises:
            Shutdown: the loop was stopped, and the event did not come in time.
        """
        while not event.wait(_CHECK_SECONDS):
            if monotonic() > self._stops_by:
                raise Shutdown

    def end(self, run: _Run[Any]) -> None:
        """Cancel a run and wait for its end, unless the loop is stopped.

        A coroutine may go on after a cancellation: each further interrupt cancels it again.
        """
        while True:
            try:
                while not (self.is_stopping or run.ended.is_set()):
                    self.loop.call_soon_threadsafe(run.cancel)
                    self.wait_for(run.ended)
                return
            except Interrupt:
                continue

    def stop(self) -> None:
        self._stops_by = monotonic() + _STOP_SECONDS
        self.is_stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.join(_STOP_SECONDS)

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self.is_stopping:
            try:
                self.loop.run_forever()
            except BaseException as error:
                # A task that the actor started; whoever awaits the task gets the error as well.
                # Without its text, which may quote a payload value.
                logger.error(
                    "a task of an async actor raised SystemExit or KeyboardInterrupt; the event "
                    "loop continues",
                    extra={"error": type(error).__name__},
                )
        tasks = asyncio.all_tasks(self.loop)
        for task in tasks:
            task.cancel()
        ended = asyncio.gather(*tasks, return_exceptions=True) if tasks else asyncio.sleep(0)
        self.loop.run_until_complete(ended)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = new_event_loop()
    return loop


@async_to_sync
async def _waits() -> None:
    """Provides the code by which Dramatiq's wrapper of coroutine functions is recognised."""


_WRAPPER = _waits.__code__
