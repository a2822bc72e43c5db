"""Runs an ``async`` task for a worker thread, which waits for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import TimeoutError
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.db import connections

#: Seconds between two checks of a waiting thread for an interrupt (time limit, shutdown).
_CHECK_SECONDS = 0.2
#: Maximum number of seconds that a cancelled task gets to end.
_END_SECONDS = 5.0


def run_coroutine(
    loop: asyncio.AbstractEventLoop,
    function: Callable[..., Awaitable[Any]],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run a coroutine function in an event loop; block until it returns.

    An interrupt of this thread (Dramatiq's ``TimeLimitExceeded`` or ``Shutdown``) cancels the
    coroutine and is raised when it has ended.
    """
    run = _CancellableRun()
    try:
        future = asyncio.run_coroutine_threadsafe(run.start(function, args, kwargs), loop)
        while True:
            try:
                return future.result(timeout=_CHECK_SECONDS)
            except TimeoutError:
                if future.done():  # raised by the coroutine itself
                    raise
    except BaseException:
        run.cancel(loop)
        raise


class _CancellableRun:
    """One run of a coroutine function, which another thread can cancel at any time.

    Its future would not do: an interrupt may come before the thread has the future.
    """

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._is_cancelled = False
        self._task: asyncio.Task[Any] | None = None

    async def start(
        self, function: Callable[..., Awaitable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run with a thread of its own for synchronous code, as Django runs an ASGI request.

        The ORM's connections belong to that thread, which ends with the task.
        """
        self._task = asyncio.current_task()
        try:
            if self._is_cancelled:
                raise asyncio.CancelledError
            async with ThreadSensitiveContext():
                try:
                    return await function(*args, **kwargs)
                finally:
                    await sync_to_async(connections.close_all)()
        finally:
            self._is_over.set()

    def cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        """Cancel the run and wait until it has ended; does nothing if it has ended already."""
        if not self._is_over.is_set():
            self._is_cancelled = True
            loop.call_soon_threadsafe(self._cancel)
            self._is_over.wait(_END_SECONDS)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
