"""An asyncio event loop in its own thread, for ``async`` actors; uvloop if it is installed."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from ..core.process import current_pid

T = TypeVar("T")

logger = logging.getLogger("formrelay.brokers")

#: Maximum number of seconds that :meth:`EventLoopThread.stop` waits for cancelled tasks.
_STOP_SECONDS = 5.0


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
        thread = self._thread
        if thread is None or self._pid != current_pid():
            thread = self._start()
        return thread.loop

    def is_current(self) -> bool:
        """Whether the caller runs in the event loop's thread."""
        return self._thread is not None and self._thread.ident == threading.get_ident()

    def call(self, function: Callable[[], object]) -> None:
        """Schedule a call of ``function`` in the event loop, and return at once."""
        self.loop.call_soon_threadsafe(function)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop; block this thread until it returns."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def stop(self) -> None:
        """Cancel all tasks and stop the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None and self._pid == current_pid():
            thread.stop()

    def _start(self) -> _Thread:
        with self._lock:
            if self._thread is None or self._pid != current_pid():
                self._pid = current_pid()
                self._thread = _Thread()
                self._thread.start()
            return self._thread


class _Thread(threading.Thread):
    def __init__(self) -> None:
        super().__init__(name="formrelay-loop", daemon=True)
        self.loop = _new_loop()
        self._is_stopping = False

    def stop(self) -> None:
        self._is_stopping = True
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.join(_STOP_SECONDS)

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._is_stopping:
            try:
                self.loop.run_forever()
            except BaseException as error:  # a task's SystemExit or KeyboardInterrupt
                logger.critical("event loop interrupted; it continues", exc_info=error)
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
